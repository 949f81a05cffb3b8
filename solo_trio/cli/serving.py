"""`solo serve`. Owns: one kernel as a process: signals, `ready`, `solo.json`, the exit code. Never: rules of the kernel."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import trio

from solo_trio import __version__
from solo_trio.bootstrap import check_unused, harden_process
from solo_trio.cli.showing import ignore_output
from solo_trio.configuration import Configuration, Serving
from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted, SoloError
from solo_trio.gateways.http.tls import Tls, TlsFiles
from solo_trio.model.service import Status
from solo_trio.operations.settings import Settings
from solo_trio.vault.certificate_files import AUTHORITY, DIRECTORY

STATE_FILE: Final = "solo.json"
PROGRESS_S: Final = 1.0
SAME_SIGNAL_S: Final = 0.05
"""Two signals this close are one: timeout(1) and process managers signal the process and then its group."""
log = logging.getLogger("solo")


def serve_until_told(configuration: Configuration) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises `SoloError` for a refused start or a failed kernel."""
    harden_process()
    _log_to_stderr(configuration.serving.log_level)
    if configuration.file is not None:
        log.info("configured by %s", configuration.file)
    told = _Told()
    with told.listening():
        import solo_trio.gateways.http.serving  # noqa: F401  (may take a second, in which nothing must run yet)

        try:
            trio.run(_serve, configuration.serving, configuration.settings, told)
        except BaseExceptionGroup as group:
            error = first_solo_error(group)
            if error is None:
                raise
            raise error from None
    return 0


def first_solo_error(group: BaseExceptionGroup[BaseException]) -> SoloError | None:
    """The one failure to tell about, if nothing in `group` is of another kind (that would be a defect)."""
    found: SoloError | None = None
    for each in group.exceptions:
        error = first_solo_error(each) if isinstance(each, BaseExceptionGroup) else each
        if not isinstance(error, SoloError):
            return None
        found = found or error
    return found


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(level.upper())
    log.propagate = False


class _Told:
    """The signals. The first one sets `event`; a later one ends the process there and then: its services end because their
    sockets do, and the data directory is as after a crash."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.reason = ""
        self._first_at: float | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._received) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def attach(self) -> None:
        """From now on a signal wakes the Trio run that called this."""
        self._token = trio.lowlevel.current_trio_token()
        if self._first_at is not None:
            self.event.set()

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self._first_at is None:
            self._first_at = time.monotonic()
            self.reason = signal.Signals(number).name
            if self._token is not None:
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self.event.set)
        elif time.monotonic() - self._first_at > SAME_SIGNAL_S:
            os._exit(1)


async def _serve(serving: Serving, settings: Settings, told: _Told) -> None:
    data = Path(serving.data_dir)
    told.attach()
    async with trio.open_nursery() as nursery:
        running: list[Kernel] = []
        nursery.start_soon(_obey, told, running, settings.shutdown_timeout_ms / 1_000, nursery.cancel_scope)
        await _check_address(data, serving.host, serving.http_port)
        files = tls_files(data, serving)
        if files is not None:  # before anything is recorded or started
            await trio.to_thread.run_sync(Tls, files)
        async with AsyncExitStack() as stack:
            said = trio.CancelScope()
            nursery.start_soon(_say_each_second, said, lambda: f"opening {data}: reading the log")
            try:
                kernel = await stack.enter_async_context(Kernel.open(data, settings=settings))
            except OSError as error:
                raise Faulted("data_unwritable", f"{data} cannot be used ({error}): correct that") from None
            said.cancel()
            running.append(kernel)
            await _run(kernel, data, serving)
        nursery.cancel_scope.cancel()


async def _obey(told: _Told, running: list[Kernel], timeout_s: float, everything: trio.CancelScope) -> None:
    """Shut down when told to. A kernel that still opens is cancelled, and so is one that is not done in time: both are
    like a crash, from which the next start recovers."""
    await told.event.wait()
    log.info("ending: %s", told.reason)
    if running:
        with trio.move_on_after(timeout_s):
            await running[0].system.core.shutdown(timeout_s, told.reason)
            await trio.sleep_forever()  # until it is over, which cancels this
        log.warning("not everything ended within %g s; the rest is cut off", timeout_s)
    everything.cancel()


async def _run(kernel: Kernel, data: Path, serving: Serving) -> None:
    core = kernel.system.core
    host, port = serving.host, serving.http_port
    tls = tls_files(data, serving)
    async with trio.open_nursery() as nursery:
        try:
            url: str = await nursery.start(
                partial(kernel.serve, host=host, port=port, allowed_hosts=serving.allow_hosts, tls=tls)
            )
        except OSError as error:
            raise _unusable(host, port, error) from None
        nursery.start_soon(_probe, kernel)
        with _state_file(data, url, tls):
            log.info("listening on %s, data in %s", url, data)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(_cancel_when, core.closed, waiting.cancel_scope)
                waiting.start_soon(_say_each_second, trio.CancelScope(), partial(_recovering, kernel))
                await kernel.wait_recovered()
                waiting.cancel_scope.cancel()
            if not core.closed.is_set():
                _say_ready(kernel, url)
            await core.closed.wait()


async def _say_each_second(scope: trio.CancelScope, say: Callable[[], str]) -> None:
    """What goes on, to the log, for whoever waits for `ready`."""
    began = trio.current_time()
    with scope:
        while True:
            await trio.sleep(PROGRESS_S)
            log.info("%s (%.0f s)", say(), trio.current_time() - began)


def _recovering(kernel: Kernel) -> str:
    wanted = [service for _, service in kernel.system.core.loop.state.services() if service.wants_to_run]
    ready = sum(service.status is Status.READY for service in wanted)
    return f"recovering: {ready} of {len(wanted)} services ready"


async def _probe(kernel: Kernel) -> None:
    """Say what protects services here, as soon as that is known."""
    process = kernel.system.core.runtimes["process"]
    try:
        await process.probe()
    except Faulted as fault:
        log.warning("%s; see solo doctor", fault)
        return
    found = process.confinement()
    log.info("sandbox level %s, %s required", found["level"], found["required"])
    for layer, why in found["missing"].items():
        log.warning("the sandbox goes without %s: %s", layer, why)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _say_ready(kernel: Kernel, url: str) -> None:
    report = kernel.system.core.report
    if report is not None:
        log.info(
            "recovered in %.3f s: %d events, %d services wanted, %d ready, %d failed, %d still starting",
            *(report.duration_s, report.events, report.wanted, report.ready, report.failed, report.pending),
        )
    hold = kernel.system.core.loop.state.system.hold
    if hold is not None:
        why = "it was asked for" if hold == "asked" else "the kernel failed so often in a row: look why"
        log.warning("services are held back (%s); start them with: solo resume ID, or solo resume --all", why)
    try:
        print(f"ready {url}", flush=True)
    except OSError as error:  # nobody reads standard output: no reason to stop
        log.warning("'ready' could not be printed: %s", error.strerror)
        ignore_output()


@contextmanager
def _state_file(data: Path, url: str, tls: TlsFiles | None) -> Iterator[None]:
    """`DATA/solo.json`, by which commands find this server; it is there while the server listens."""
    path = data / STATE_FILE
    text = json.dumps({"pid": os.getpid(), "urls": [url], "version": __version__} | _trust(data, tls)) + "\n"
    new = path.with_suffix(".json.new")
    new.unlink(missing_ok=True)
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
        new.replace(path)
    except OSError as error:
        raise Faulted("data_unwritable", f"{path} cannot be written ({error.strerror}): correct that") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def tls_files(data: Path, serving: Serving) -> TlsFiles | None:
    """Which files `serving` means. An authority of clients that is not there is none, unless it was asked for."""
    if not serving.tls:
        return None
    authority: Path | None = data / serving.tls_client_ca
    asked = serving.tls_client_required or serving.tls_client_ca != Serving().tls_client_ca
    assert authority is not None
    if not asked and not authority.exists():
        authority = None
    return TlsFiles(
        certificate=data / serving.tls_certificate,
        key=data / serving.tls_key,
        client_ca=authority,
        client_required=serving.tls_client_required,
        revoked=data / serving.tls_revoked,
    )


def _trust(data: Path, tls: TlsFiles | None) -> dict[str, object]:
    """How commands on this machine come to trust the server, and to be let in."""
    if tls is None:
        return {}
    own = data / DIRECTORY
    authority = own / f"{AUTHORITY}.crt"
    ours = tls.certificate.is_relative_to(own) and authority.exists()
    return {
        "ca_cert": str(authority.absolute()) if ours else None,
        "client_required": tls.client_required,
    }


async def _check_address(data: Path, host: str, port: int) -> None:
    """Refuse an address that cannot be used before anything is recorded or started."""
    try:
        await check_listening(host, port)
    except Faulted:
        check_unused(data)  # the same command twice finds both taken; that the data is in use says more
        raise


async def check_listening(host: str, port: int) -> None:
    """Raise `Faulted("address_unusable")` if nobody can listen there."""
    try:
        for listener in await trio.open_tcp_listeners(port, host=host):
            await listener.aclose()
    except OSError as error:
        raise _unusable(host, port, error) from None


def _unusable(host: str, port: int, error: OSError) -> Faulted:
    taken = "another process listens there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return Faulted(
        "address_unusable", f"cannot listen on {host} port {port} ({taken}): name another with --host or --port 0"
    )
