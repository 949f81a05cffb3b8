"""The one process that is exec'ed; every tenant's zygote is a fork of it. Owns: finding out what this machine has, forking
keepers, reaping them. Never: forks a service, starts a thread, serves a tenant.

The control socket is SOCK_SEQPACKET; one JSON object a packet.
    kernel -> ancestor  {"tenant": number, "groups": [...]}  with the zygote's control socket and the tenant's lock
    ancestor -> kernel  {"ready": pid, "plan": {...}}
                        {"keeper": number, "pid": pid}  with a pidfd
                        {"refused": number, "reason": text}
The control socket ending means that the kernel is gone, or needs no more zygotes; each of those lives on its own socket.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from attrs import asdict

from solo_trio.runtimes.host import Link, furnish
from solo_trio.runtimes.immortal import immortalise
from solo_trio.runtimes.keeper import keep
from solo_trio.runtimes.rehearsal import rehearse
from solo_trio.runtimes.sandbox import root, system
from solo_trio.runtimes.sandbox.layers import detect
from solo_trio.runtimes.sandbox.plan import Plan
from solo_trio.runtimes.zygote import serve as serve_zygote

REQUEST_BYTES_MAX: Final = 64 * 1024
_DESCRIPTORS: Final = 2


def serve(control: int, given: Mapping[str, Any], package: str, paths: list[str]) -> NoReturn:
    """Warm up, then fork keepers until the control socket ends. `given`: `mount`, `hidden`, `without`, `packages`."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # what the kernel's application does with it outlives the exec
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)  # others have to find their way through the directories of a new root
    layers = detect(tuple(given["without"]))
    shown = root.places(package, [*paths, *given["packages"]])
    plan = Plan(layers, given["mount"], tuple(shown), tuple(given["hidden"]))
    link = warm_up()
    first = _first_packages()
    sys.path[first:first] = given["packages"]  # after what the host runs on was imported: that stays as it is
    _bequeath()
    system.prctl(system.PR_SET_DUMPABLE, 0)
    # Of what a killed keeper leaves to be buried: not every init does that.
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    _Ancestor(socket.socket(fileno=control), plan, link).loop(root.unreachable(shown) if layers.own_uid else [])


def _bequeath() -> None:
    """What services inherit: no environment and arguments, and short turns; done here, it costs none of them anything."""
    os.environ.clear()
    sys.argv[:] = []
    sys.orig_argv[:] = []
    system.take_short_turns()


def _first_packages() -> int:
    """Where in sys.path installed packages begin: after the standard library."""
    names = [os.path.basename(path) in ("site-packages", "dist-packages") for path in sys.path]
    return names.index(True) if True in names else len(names)


def warm_up() -> Link:
    """Load and touch whatever a service needs, so that all of them share it; then freeze it, so that it stays shared.

    After the root has changed nothing outside of it can be loaded, and within a service each import costs its own memory.
    """
    link = furnish()
    rehearse()
    gc.collect()
    gc.disable()
    immortalise()
    gc.freeze()
    return link


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class _Ancestor:
    def __init__(self, control: socket.socket, plan: Plan, link: Link) -> None:
        self._control = control
        self._plan = plan
        self._link = link
        self._wake, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def loop(self, unreachable: list[str]) -> NoReturn:
        self._send({"ready": os.getpid(), "plan": asdict(self._plan), "unreachable": unreachable})
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                _reap()
            if self._control.fileno() in ready:
                self._request()

    def _send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
        except OSError:
            os._exit(0)

    def _request(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._control, REQUEST_BYTES_MAX, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            data, descriptors = b"", []
        if not data:
            _reap()  # or they would be left to whoever inherits them
            os._exit(0)
        request = json.loads(data)
        number = request["tenant"]
        try:
            if len(descriptors) != _DESCRIPTORS:
                raise OSError(24, "no descriptors are left")
            pid = os.fork()
            if pid == 0:
                self._become_keeper(descriptors[0], request["groups"])
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._send({"refused": number, "reason": f"fork: {error.strerror}"})
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        try:
            self._send({"keeper": number, "pid": pid}, (pidfd,))
        finally:
            os.close(pidfd)

    def _become_keeper(self, control: int, groups: list[str]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            self._control.close()
            os.close(self._wake)
            os.close(self._wake_write)
            bell = keep(control, self._plan.layers, groups)
            serve_zygote(control, bell, self._plan, self._link)
        except BaseException:  # noqa: BLE001 - the kernel has no other way to learn why
            report = json.dumps({"failed": traceback.format_exc()[-4000:]}).encode()
            with contextlib.suppress(OSError):
                socket.socket(fileno=control).send(report)
            os._exit(1)
