"""The inner process of a zygote. Owns: leaving what services must not see, forking them, reporting their ends. Never: runs
service code, starts a thread.

The control socket is SOCK_SEQPACKET; one JSON object a packet.
    kernel -> zygote   {"spawn": number, "limits": {...}, "uid": number or null, "ahead": whether nobody waits for it}
                           with the service's socket, stdout, stderr, and the entrances of its cgroups
    zygote -> kernel   {"ready": pid}       with a pidfd of its own
                       {"spawned": number}  with a pidfd
                       {"refused": number, "reason": text}
                       {"exited": number, "status": wait status, "cpu_s": seconds, "rss_max_bytes": bytes}
The control socket ending means that the kernel is gone: every child is killed and reaped.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
from typing import Any, Final, NoReturn

from solo_trio.runtimes.child import Setup, become_service
from solo_trio.runtimes.host import Link
from solo_trio.runtimes.sandbox import root, system
from solo_trio.runtimes.sandbox.layers import NAMESPACES
from solo_trio.runtimes.sandbox.plan import Plan, Prepared

REQUEST_BYTES_MAX: Final = 64 * 1024
DESCRIPTORS_LEAST: Final = 3
DESCRIPTORS_MOST: Final = 8
_KIBIBYTE: Final = 1024


def serve(control: int, bell: int, plan: Plan, link: Link) -> NoReturn:
    """Leave everything that services must not see, then fork them until the control socket ends. `link`: see `host.furnish`."""
    tasks = os.open("/proc/self/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # there is no /proc later
    if plan.layers.namespaces:
        system.unshare(NAMESPACES)
        root.build(plan.mount, plan.shown, plan.hidden)
    prepared = Prepared.of(plan)
    gc.collect()
    gc.freeze()
    zygote = _Zygote(socket.socket(fileno=control), bell, tasks, prepared, link)
    zygote.say_ready()
    zygote.loop()


class _Zygote:
    def __init__(self, control: socket.socket, bell: int, tasks: int, prepared: Prepared, link: Link) -> None:
        self._control = control
        self._bell = bell
        self._tasks = tasks
        self._prepared = prepared
        self._link = link
        self._numbers: dict[int, int] = {}
        """pid -> the kernel's number for it"""
        self._wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)

    def loop(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._reap(os.WNOHANG)
            if self._control.fileno() in ready:
                self._request()

    def say_ready(self) -> None:
        pidfd = os.pidfd_open(os.getpid())
        try:
            self.send({"ready": os.getpid()}, (pidfd,))
        finally:
            os.close(pidfd)

    def send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
        except OSError:
            self._end()

    def _request(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._control, REQUEST_BYTES_MAX, DESCRIPTORS_MOST, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            data, descriptors = b"", []
        if not data:
            self._end()
        request = json.loads(data)
        number = request["spawn"]
        try:
            pid = self._fork(request, descriptors)
        except OSError as error:
            self.send({"refused": number, "reason": f"fork: {error.strerror}"})
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._numbers[pid] = number
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # no descriptor is left; the kernel takes it for a refusal and lets the child end
            self.send({"spawned": number})
            return
        try:
            self.send({"spawned": number}, (pidfd,))
        finally:
            os.close(pidfd)

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        if len(descriptors) < DESCRIPTORS_LEAST:
            raise OSError(errno.EMFILE, "the zygote has no descriptors left")
        service_socket, stdout, stderr, *groups = descriptors
        threads = len(os.listdir(self._tasks))
        if threads != 1:
            raise OSError(errno.EDEADLK, f"the zygote has {threads} threads; the child could deadlock")
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._control.detach()  # its number will be another descriptor's; a finaliser must not close that
            setup = Setup(
                service_socket,
                stdout,
                stderr,
                tuple(groups),
                request["limits"],
                request["uid"],
                parent,
                self._prepared,
                self._link,
                ahead=request["ahead"],
            )
            become_service(setup)
        return pid

    def _reap(self, options: int) -> bool:
        """Reap and report; whether there may be more children."""
        while True:
            try:
                pid, status, used = os.wait4(-1, options)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            number = self._numbers.pop(pid, None)
            if number is None:
                continue  # left behind by a service, where nothing keeps one from forking
            with contextlib.suppress(OSError):  # the keeper then kills what the service left behind
                os.write(self._bell, b".")
            self.send(
                {
                    "exited": number,
                    "status": status,
                    "cpu_s": used.ru_utime + used.ru_stime,
                    "rss_max_bytes": used.ru_maxrss * _KIBIBYTE,
                }
            )

    def _end(self) -> NoReturn:
        for pid in self._numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait4(-1, 0)
        os._exit(0)
