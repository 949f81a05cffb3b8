"""The inner process of a zygote. Owns: forking services and reporting their ends. Never: runs service code, starts a thread.

The control socket is SOCK_SEQPACKET; one JSON object a packet.
    kernel -> zygote   {"spawn": number, "limits": {...}}  with the service's socket, stdout and stderr
    zygote -> kernel   {"ready": pid}
                       {"spawned": number, "pid": pid}  with a pidfd
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

REQUEST_BYTES_MAX: Final = 64 * 1024
DESCRIPTORS_PER_SPAWN: Final = 3
_KIBIBYTE: Final = 1024


def serve(control: int, bell: int) -> NoReturn:
    """Warm up, then fork services until the control socket ends."""
    warm_up()
    zygote = _Zygote(socket.socket(fileno=control), bell)
    zygote.send({"ready": os.getpid()})
    zygote.loop()


def warm_up() -> None:
    """Load and touch whatever a service needs, so that all of them share it; then freeze it, so that it stays shared."""
    import trio

    import solo_trio.runtimes.host
    import solo_trio.service  # noqa: F401

    async def once() -> None:
        with trio.move_on_after(0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)
                await trio.lowlevel.checkpoint()

    trio.run(once)
    gc.collect()
    gc.disable()
    gc.freeze()


class _Zygote:
    def __init__(self, control: socket.socket, bell: int) -> None:
        self._control = control
        self._bell = bell
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

    def send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
        except OSError:
            self._end()

    def _request(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._control, REQUEST_BYTES_MAX, DESCRIPTORS_PER_SPAWN, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            data, descriptors = b"", []
        if not data:
            self._end()
        request = json.loads(data)
        number = request["spawn"]
        try:
            pid = self._fork(request["limits"], descriptors)
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
            self.send({"spawned": number, "pid": pid})
            return
        try:
            self.send({"spawned": number, "pid": pid}, (pidfd,))
        finally:
            os.close(pidfd)

    def _fork(self, limits: dict[str, float], descriptors: list[int]) -> int:
        if len(descriptors) != DESCRIPTORS_PER_SPAWN:
            raise OSError(errno.EMFILE, "the zygote has no descriptors left")
        service_socket, stdout, stderr = descriptors
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            raise OSError(errno.EDEADLK, f"the zygote has {threads} threads; the child could deadlock")
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._control.detach()  # its number will be another descriptor's; a finaliser must not close that
            become_service(Setup(service_socket, stdout, stderr, limits, parent))
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
            with contextlib.suppress(OSError):  # the keeper then kills what the service left behind
                os.write(self._bell, b".")
            self.send(
                {
                    "exited": self._numbers.pop(pid),
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
