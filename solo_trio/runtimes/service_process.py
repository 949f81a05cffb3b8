"""One service in a process, seen from the kernel. Owns: its wire, output, calls and end. Never: trusts what it says.

Bounds: `calls_in_flight` calls (a cancelled one counts until the service let go of it). What it has not read:
`QUEUED_BYTES_MAX` bytes, above which calls to it, and answers to its own, are refused as overloaded: so one frame more, which
is a mebibyte for a call through an operation. Small messages go on until `wire.FRAME_BYTES_MAX` above it; that is a crash.
Of its own calls `ASKS_IN_FLIGHT_MAX` at a time, and `ASKED_BYTES_MAX` of arguments as they came; as Python objects these can
be some twenty times as large. It is read at `READ_BYTES_PER_S`, with `READ_BURST_BYTES` at once; what it sends beyond that
waits in its own socket. An unfinished frame is at most the largest that `wire.BYTES_MAX` allows of its kind.
"""

from __future__ import annotations

import array
import base64
import contextlib
import errno
import functools
import itertools
import os
import signal
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio
from attrs import define, evolve, field, frozen

from solo_trio.errors import Faulted, Rejected, SoloError
from solo_trio.model.mandate import NOBODYS, Mandate
from solo_trio.policy.bucket import Bucket
from solo_trio.policy.redaction import RedactedStream
from solo_trio.ports import Breach, Ending, Launch
from solo_trio.runtimes import procfs, rlimits, wire
from solo_trio.runtimes.egress import Door, Egress, Refused
from solo_trio.runtimes.egress_pump import Pump
from solo_trio.runtimes.fence import reason_of
from solo_trio.runtimes.judge import Evidence, judge
from solo_trio.runtimes.life import CALLS_IN_FLIGHT_DEFAULT
from solo_trio.runtimes.output import drain
from solo_trio.runtimes.replies import call_interrupted, call_over, value_of
from solo_trio.runtimes.sandboxes import Sandbox

QUEUED_BYTES_MAX: Final = 4 * 1024 * 1024
ASKS_IN_FLIGHT_MAX: Final = 16
ASKED_BYTES_MAX: Final = 2 * wire.ASK_BYTES_MAX
ASK_TIMEOUT_S_MAX: Final = 30.0
READ_BYTES_PER_S: Final = 8 * 1024 * 1024
READ_BURST_BYTES: Final = 4 * 1024 * 1024
CONTAINER_COST_BYTES: Final = 64
"""What each list and object counts for beside its own bytes: making one is what parsing takes its time for."""
MESSAGE_COST_BYTES: Final = 2_048
"""What each message counts for beside that, however short it is."""
MESSAGES_AT_ONCE_MAX: Final = 32
"""Then the kernel's other tasks have their turn."""
LAST_WORD_EXIT_S_MAX: Final = 5.0
"""From its last word, or the end of its socket, until it must have exited."""
DRAIN_S_MAX: Final = 2.0
"""After its exit, for what it wrote before; a descendant may hold the other end open for ever."""
STATUS_S_MAX: Final = 5.0
"""From the exit until the zygote has reported it."""
DEATH_S_MAX: Final = 10.0
"""From SIGKILL until the process is gone; longer only in an uninterruptible sleep."""
RECEIVE_BYTES: Final = 64 * 1024
DESCRIPTOR_RETRY_S: Final = 0.05
"""Until a descriptor is tried again to be sent, where too many are on their way on this machine."""
LOG_LEVELS: Final = frozenset({"debug", "info", "warning", "error", "critical"})


@frozen
class Greeting:
    """The first frame, made before there is a process: whether it fits is known before anything is forked."""

    wire: wire.Wire
    frame: bytes
    calls_max: int


def greet(launch: Launch) -> Greeting:
    """Raises `Rejected("too_large")`."""
    calls_max = int(launch.limits.get("calls_in_flight", CALLS_IN_FLIGHT_DEFAULT))
    hello = wire.Hello(
        launch.tenant_id,
        launch.service_id,
        launch.version,
        launch.generation,
        "process",
        launch.config,
        calls_max,
        *_body_of(launch.source),
    )
    end = wire.Wire("kernel")
    try:
        return Greeting(end, end.send(hello), calls_max)
    except wire.FrameTooLarge as error:
        raise Rejected("too_large", f"source and config do not fit: {error}") from None


def _body_of(source: str | bytes) -> tuple[bytes, str]:
    """The bytes and the format of a source. A lone surrogate fails to load, there."""
    if isinstance(source, bytes):
        return source, "python_zip"
    return source.encode("utf-8", "surrogatepass"), "python_source"


@define
class _Pending:
    """A call and, later, its result. `mandate`: None once it was given up."""

    mandate: Mandate | None
    done: trio.Event = field(factory=trio.Event)
    result: wire.Result | None = None


class ServiceProcess:
    """`ports.Running` for a process. `run` is its one task; it owns the descriptors and closes them."""

    def __init__(self, launch: Launch, greeting: Greeting, sandbox: Sandbox) -> None:
        spawned = sandbox.spawned
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.ending: Ending | None = None
        self.pid = spawned.pid
        self._shares_cpu = "cpu_percent" in launch.limits
        """Then it is worth a look whether it is held to that."""
        self._launch = launch
        self._sandbox = sandbox
        self._pidfd = spawned.pidfd
        self._exit = spawned.exit
        self._sock = sandbox.sock
        self._pipes = {"stdout": sandbox.stdout, "stderr": sandbox.stderr}
        self._wire = greeting.wire
        self._queued = bytearray(greeting.frame)
        self._wake = trio.Event()
        self._calls: dict[int, _Pending] = {}
        self._next_call = 1
        self._calls_max = self._calls_greeted = greeting.calls_max
        self._asks: dict[int, trio.CancelScope] = {}
        self._asked_bytes = 0
        self._door = Door(launch)
        self._connects: dict[int, trio.CancelScope] = {}
        self._sweeping = False
        self._sent_bytes = 0
        self._descriptors: deque[tuple[int, socket.socket]] = deque()
        """What goes with which byte of all that is sent."""
        self._nursery: trio.Nursery | None = None
        self._last_word: wire.Failed | wire.Ended | None = None
        self._exited = False
        self._killed = False
        self._stop_requested = False
        self._fault: str | None = None
        self.pauses = 0
        """How often it had sent too much and was not read for a while."""

    # -- what the kernel asks for

    async def call(self, function: str, args: Sequence[Any], kwargs: dict[str, Any], mandate: Mandate = NOBODYS) -> Any:
        """See `ports.Running.call`."""
        if self._exited or self.ended.is_set() or self._last_word is not None:
            raise call_interrupted(self._launch.service_id)
        if len(self._calls) >= self._calls_max:
            raise Faulted("overloaded", f"{self._calls_max} calls to it are in flight", retry_after_s=1)
        if len(self._queued) > QUEUED_BYTES_MAX:
            raise Faulted("overloaded", "it does not read what it is sent", retry_after_s=1)
        number, self._next_call = self._next_call, self._next_call + 1
        try:
            self._queue(wire.Call(number, function, list(args), kwargs, mandate.view()))
        except wire.FrameTooLarge as error:
            raise Rejected("too_large", f"the arguments do not fit: {error}") from None
        pending = self._calls[number] = _Pending(mandate)
        try:
            await pending.done.wait()
        except trio.Cancelled:
            pending.mandate = None
            if pending.result is None and not self._exited:
                self._queue(wire.Cancel(number))
            raise
        if pending.result is None:
            raise call_interrupted(self._launch.service_id)
        result = pending.result
        message = self._launch.redactor.text(result.message)
        return value_of(self._launch.service_id, function, result.kind, result.value, result.error_type, message)

    def request_stop(self) -> None:
        """See `ports.Running.request_stop`."""
        if not self._stop_requested and not self._exited:
            self._stop_requested = True
            self._queue(wire.Stop())

    def kill(self) -> None:
        """See `ports.Running.kill`."""
        if not self._exited:
            self._killed = True
            self._signal_kill()

    def adjust(self, limits: Mapping[str, float]) -> frozenset[str]:
        """See `ports.Running.adjust`. More calls than it was greeted with would be refused on its side."""
        if self._exited:
            return frozenset()
        done = rlimits.adjust(self.pid, limits) | self._sandbox.group.adjust(limits)
        self._shares_cpu = self._shares_cpu or "cpu_percent" in done
        calls_max = limits.get("calls_in_flight")
        if calls_max is not None and calls_max <= self._calls_greeted:
            self._calls_max = int(calls_max)
            done |= {"calls_in_flight"}
        return done

    def share(self, egress: Egress) -> None:
        """Before it runs: its connections count with those of all others."""
        self._door.share(egress)

    def reconsider_egress(self) -> None:
        """See `ports.Running.reconsider_egress`."""
        self._door.reconsider()

    def usage(self, *, exactly: bool = False) -> dict[str, float]:
        """See `ports.Running.usage`."""
        if self._exited:
            return {}
        found = procfs.usage(self.pid, self._sandbox.spawned.inherited, exactly=exactly)
        if found:
            found |= self._door.usage()
        throttled_s = self._sandbox.group.throttled_s() if found and self._shares_cpu else None
        return found if throttled_s is None else found | {"throttled_s": throttled_s}

    # -- its life

    async def run(self) -> None:
        """Until the process is gone and its ending is known. Nothing but `Cancelled` comes out, and that after a kill."""
        try:
            await self._serve()
        except Exception as error:  # noqa: BLE001 - a defect here ends this service, never its tenant
            self._fault = f"a defect in the kernel's runtime: {reason_of(error)}"
        finally:
            with trio.move_on_after(DEATH_S_MAX, shield=True):
                if not self._exited:
                    self._killed = True
                    self._signal_kill()
                    await trio.lowlevel.wait_readable(self._pidfd)
                    self._exited = True
                    with trio.move_on_after(STATUS_S_MAX):
                        await self._exit.known.wait()
            self._finish()

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._write)
            async with trio.open_nursery() as outputs:
                outputs.start_soon(self._read)
                for stream, level in (("stdout", "info"), ("stderr", "warning")):
                    take = functools.partial(self._log_line, stream, level)
                    outputs.start_soon(drain, self._pipes[stream], take, RedactedStream(self._launch.redactor))
                await trio.lowlevel.wait_readable(self._pidfd)
                self._exited = True
                outputs.cancel_scope.deadline = trio.current_time() + DRAIN_S_MAX
            with trio.move_on_after(STATUS_S_MAX):
                await self._exit.known.wait()
            nursery.cancel_scope.cancel()

    def _finish(self) -> None:
        self._exited = True
        self._nursery = None
        for descriptor in (self._pidfd, *self._pipes.values()):
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        self._queued.clear()
        for _, unsent in self._descriptors:
            unsent.close()
        self._descriptors.clear()
        self._door.tell_refusals()
        self.ending = judge(
            Evidence(self._exit.status, self._last_word, self._killed, self._stop_requested, self._fault)
        )
        if not self._killed and self._sandbox.group.ran_out_of_memory():
            self.ending = evolve(
                self.ending, kind="crashed", breach=Breach("memory_mb")
            )  # the supervisor says it in words
        self._sandbox.release()
        self.ended.set()
        for pending in self._calls.values():
            pending.done.set()
        self._calls.clear()

    def _signal_kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _break(self, fault: str) -> None:
        """End it for what it did."""
        if self._fault is None:
            self._fault = fault
        self._signal_kill()

    def _log_line(self, stream: Any, level: str, line: str) -> None:
        self._launch.log(stream, level, line, {})

    # -- the wire

    def _queue(self, message: wire.FromKernel, descriptor: socket.socket | None = None) -> None:
        frame = self._wire.send(message)
        if len(self._queued) + len(frame) > QUEUED_BYTES_MAX + wire.FRAME_BYTES_MAX:
            self._break(f"it left {len(self._queued)} bytes unread")
            if descriptor is not None:
                descriptor.close()
            return
        if descriptor is not None:
            self._descriptors.append((self._sent_bytes + len(self._queued), descriptor))
        self._queued += frame
        self._wake.set()

    async def _write(self) -> None:
        while True:
            if not self._queued:
                self._wake = trio.Event()
                await self._wake.wait()
            try:
                sent = self._send_part()
                del self._queued[:sent]
                self._sent_bytes += sent
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    return  # it closed its socket: the reader sees that too
                await trio.sleep(DESCRIPTOR_RETRY_S)

    def _send_part(self) -> int:
        """Send some of what is queued, up to where a descriptor goes along, or that descriptor with what follows it."""
        places = [place - self._sent_bytes for place, _ in itertools.islice(self._descriptors, 2)]
        end = min(RECEIVE_BYTES, *(place for place in places if place > 0), RECEIVE_BYTES)
        with memoryview(self._queued) as view, view[:end] as part:
            if not places or places[0] > 0:
                return self._sock.send(part)
            rights = array.array("i", [self._descriptors[0][1].fileno()])
            sent = self._sock.sendmsg([part], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        self._descriptors.popleft()[1].close()
        return sent

    async def _read(self) -> None:
        bucket = Bucket(READ_BYTES_PER_S, READ_BURST_BYTES, READ_BURST_BYTES, trio.current_time())
        messages = 0
        while not self._wire.over:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                data = self._sock.recv(RECEIVE_BYTES)  # never recvmsg: it could send descriptors
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                break
            cost = len(data) + CONTAINER_COST_BYTES * (data.count(b"[") + data.count(b"{"))
            cost = min(cost + MESSAGE_COST_BYTES * messages, READ_BURST_BYTES)  # of those that the last read held
            while not (taken := bucket.take(cost, trio.current_time()))[1]:
                bucket = taken[0]
                self.pauses += 1
                await trio.sleep((cost - bucket.tokens) / bucket.rate)
            bucket = taken[0]
            try:
                messages = await self._take_all(data)
            except wire.WireError as error:
                self._break(f"it broke the protocol: {error}")
                return
        if self._nursery is not None:
            self._nursery.start_soon(self._linger)

    async def _take_all(self, data: bytes) -> int:
        """How many messages there were."""
        self._wire.feed(data)
        for number in itertools.count(1):
            message = self._wire.next()
            if message is None:
                break
            self._take(message)
            if number % MESSAGES_AT_ONCE_MAX == 0:
                await trio.lowlevel.checkpoint()
        return number - 1

    async def _linger(self) -> None:
        """Nothing is left to hear from it: it is about to exit, or it must be made to."""
        await trio.sleep(LAST_WORD_EXIT_S_MAX)
        if not self._exited:
            self._break("it closed its socket and went on" if self._last_word is None else "it did not exit at its end")

    def _take(self, message: wire.Message) -> None:
        match message:
            case wire.Ready():
                self.ready.set()
            case wire.Log():
                level = message.level if message.level in LOG_LEVELS else "info"
                self._launch.log("log", level, message.message, message.fields)
            case wire.Result():
                pending = self._calls.pop(message.id, None)
                if pending is None:
                    raise wire.WireError(f"a result for call {message.id}, which is not open")
                pending.result = message
                pending.done.set()
            case wire.Ask() | wire.AskSecret() | wire.AskRight():
                self._ask(message)
            case wire.Drop():
                for asked in (self._asks, self._connects):
                    if message.id in asked:
                        asked[message.id].cancel()
            case wire.Connect():
                self._connect(message)
            case wire.Failed() | wire.Ended():
                self._last_word = message
            case _:
                pass

    # -- its own calls

    def _connect(self, asked: wire.Connect) -> None:
        if asked.id in self._connects:
            raise wire.WireError(f"connect {asked.id} is open already")
        if self._nursery is not None and not self._sweeping:
            self._sweeping = True
            self._nursery.start_soon(self._door.sweep)
        try:
            host = self._door.check(asked.host, asked.port)
        except Refused as refused:
            self._queue(wire.Connected(asked.id, refused.error, refused.detail))
            return
        if self._nursery is not None:
            self._connects[asked.id] = trio.CancelScope()
            self._nursery.start_soon(self._connection, asked, host)

    async def _connection(self, asked: wire.Connect, host: str) -> None:
        """Make it, hand it over, carry it."""
        refused: Refused | None = None
        made: tuple[Pump, socket.socket] | None = None
        with self._connects[asked.id]:
            try:
                made = await self._door.connect(host, asked.port, asked.timeout_s)
            except Refused as error:
                refused = error
        self._connects.pop(asked.id)
        if refused is not None:
            self._queue(wire.Connected(asked.id, refused.error, refused.detail))
        if made is None:  # or it was dropped
            return
        pump, theirs = made
        self._queue(wire.Connected(asked.id, 0, ""), theirs)
        await self._door.run(pump)

    def _ask(self, ask: wire.Ask | wire.AskSecret | wire.AskRight) -> None:
        if ask.id in self._asks:
            raise wire.WireError(f"ask {ask.id} is open already")
        try:  # at once: what it is asked for may be answered in the next message
            mandate = self._mandate_of(ask)
        except Rejected as refusal:
            self._queue(wire.Answer(ask.id, refusal.code, refusal.detail, None))
            return
        if len(self._asks) >= ASKS_IN_FLIGHT_MAX:
            self._queue(wire.Answer(ask.id, "overloaded", f"{ASKS_IN_FLIGHT_MAX} calls of yours are in flight", None))
        elif self._asked_bytes + ask.size > ASKED_BYTES_MAX:
            self._queue(
                wire.Answer(ask.id, "overloaded", f"calls of yours with {self._asked_bytes} bytes are in flight", None)
            )
        elif self._nursery is not None:
            self._asks[ask.id] = trio.CancelScope()
            self._asked_bytes += ask.size
            self._nursery.start_soon(self._answer, ask, mandate)

    def _mandate_of(self, ask: wire.Ask | wire.AskSecret | wire.AskRight) -> Mandate | None:
        """What the call carries that it is asked for; None: the service asks by itself. Raises `Rejected`.

        It can name only what is in flight to it: another number is worth nothing, whosever it is.
        """
        if isinstance(ask, wire.AskSecret) or (isinstance(ask, wire.Ask) and ask.call == 0):
            return None
        pending = self._calls.get(ask.call)
        if pending is None or pending.mandate is None:
            raise call_over()
        return pending.mandate

    async def _asked(self, ask: wire.Ask | wire.AskSecret | wire.AskRight, mandate: Mandate | None) -> Any:
        if isinstance(ask, wire.AskSecret):
            value = await self._launch.secret(ask.name)
            return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else {"text": value}
        if isinstance(ask, wire.AskRight):
            assert mandate is not None
            return self._launch.may(mandate, ask.resource, ask.permission)
        timeout_s = min(ask.timeout_s, ASK_TIMEOUT_S_MAX) if ask.timeout_s > 0 else 0.0
        return await self._launch.outgoing(ask.service_id, ask.function, ask.args, ask.kwargs, timeout_s, mandate)

    async def _answer(self, ask: wire.Ask | wire.AskSecret | wire.AskRight, mandate: Mandate | None) -> None:
        code, detail, value = "kernel_bug", "the call failed inside the kernel", None
        with self._asks[ask.id]:
            try:
                value = await self._asked(ask, mandate)
                code, detail = "", ""
            except SoloError as error:
                code, detail = error.code, error.detail
        dropped = self._asks.pop(ask.id).cancelled_caught
        self._asked_bytes -= ask.size
        if dropped or self._exited:
            return
        if len(self._queued) > QUEUED_BYTES_MAX:
            code, detail, value = "overloaded", "you do not read what you are sent", None
        try:
            self._queue(wire.Answer(ask.id, code, detail, value))
        except wire.FrameTooLarge as error:
            self._queue(wire.Answer(ask.id, "result_not_serialisable", str(error), None))
