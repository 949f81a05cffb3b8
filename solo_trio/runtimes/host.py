"""Inside a service's process. Owns: loading the source and serving the wire. Never: forks, or trusts the source."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import linecache
import logging
import os
import re
import select
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final, NoReturn

import attrs
import trio
from attrs import define, field

from solo_trio.runtimes import egress_child, wire, zip_modules
from solo_trio.runtimes.egress_broker import Broker
from solo_trio.runtimes.fence import message_of, reason_of, traceback_tail
from solo_trio.runtimes.life import Life, Reply, Verdict, crashed
from solo_trio.service.calling import CallError
from solo_trio.service.context import LOG_MESSAGE_CHARS_MAX, Context
from solo_trio.service.module import Module
from solo_trio.service.values import printable

MODULE_NAME: Final = "__service__"
RECEIVE_BYTES: Final = 64 * 1024
RIGHTS_BYTES: Final = socket.CMSG_LEN(struct.calcsize("i"))
"""`socket.recv_fds` would take no flags before Python 3.12."""
RECEIVE_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)
EXIT_KERNEL_GONE: Final = 120
"""Nobody is left to read this exit code."""
LOG_WAIT_S_MAX: Final = 1.0
SHORT_TRACEBACK_CHARS: Final = 2_000
"""Six bytes of JSON for each, at the worst."""


def furnish() -> Link:
    """Give this process what every service has and none differs in: its two streams, logging, network access by the link.

    Before the fork, as it costs each service 1.1 ms and 170 pages of memory after it. The link has no socket yet.
    """
    link = Link()
    egress_child.install(link.broker)
    with _pipes_at(1, 2):
        sys.stdout, sys.stderr = _stream(1), _stream(2)
    logging.basicConfig(level=logging.INFO, handlers=[_WireHandler(link)], force=True)
    return link


@contextlib.contextmanager
def _pipes_at(*numbers: int) -> Iterator[None]:
    """A stream remembers of its file that it cannot seek: so it is made on what the service will have there."""
    read, write = os.pipe()
    kept = [os.dup(number) for number in numbers]
    for number in numbers:
        os.dup2(write, number)
    try:
        yield
    finally:
        for number, before in zip(numbers, kept, strict=True):
            os.dup2(before, number)
        for descriptor in (read, write, *kept):
            os.close(descriptor)


def _stream(descriptor: int) -> io.TextIOWrapper:
    # The zygote's own stream is block-buffered: a crash would lose what was printed before it.
    return open(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


def host(link: Link, sock: socket.socket) -> NoReturn:
    """Serve one service on `sock` until it ends, then end the process. `link`: of `furnish`."""
    code = 1
    try:
        link.attach(sock)
        code = live(link)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)  # threads of abandoned calls, and atexit handlers, do not get a say


class Link:
    """The service's end of the wire. Messages may be sent from any thread.

    Sending blocks until the kernel took it, which reads each service at a bounded rate: a log line must not get lost because
    the loop of the service is busy. But if the kernel takes nothing for `log_wait_s`, lines are dropped and counted until it
    does; the next one that gets through says how many in `lines_lost`.
    """

    _sock: socket.socket

    def __init__(self, log_wait_s: float = LOG_WAIT_S_MAX) -> None:
        self._log_wait_s = log_wait_s
        self._lines_lost = 0
        self._wire = wire.Wire("service")
        self._lock = threading.RLock()  # re-entrant: a logging call inside a signal handler or a __del__
        self._receiving = threading.Lock()
        self._inbox: deque[wire.Message] = deque()
        self.broker = Broker(lambda: self._sock.fileno(), self.send, self._receive_anywhere)
        self.on_messages: Callable[[], None] | None = None
        """Called, in any thread, when messages came in outside the session's own reading."""

    def attach(self, sock: socket.socket) -> None:
        """Once, before anything else."""
        self._sock = sock

    def send(self, message: wire.FromService) -> None:
        with self._lock:
            try:
                self._sock.sendall(self._wire.send(message))
            except OSError:
                os._exit(EXIT_KERNEL_GONE)

    def log(self, level: str, message: str, fields: dict[str, Any]) -> None:
        """Never raises: fields too large for a frame are left out, a line after the last word is lost."""
        with self._lock:
            writable = select.poll()  # a new one: they are not re-entrant
            writable.register(self._sock, select.POLLOUT)
            if not writable.poll(0 if self._lines_lost else self._log_wait_s * 1_000):
                self._lines_lost += 1
                return
            lost = {"lines_lost": self._lines_lost} if self._lines_lost else {}
            try:
                self._log(level, message, {**fields, **lost}, lost)
            except wire.WireError:
                return
            self._lines_lost = 0

    def _log(self, level: str, message: str, fields: dict[str, Any], lost: dict[str, Any]) -> None:
        try:
            self.send(wire.Log(level, message, fields))
        except wire.FrameTooLarge as error:
            self.send(wire.Log(level, message, {"fields_lost": message_of(error), **lost}))

    def last_word(self, message: wire.Failed | wire.Ended) -> None:
        """With less of the traceback, if it is one that JSON makes much longer."""
        try:
            self.send(message)
        except wire.FrameTooLarge:
            self.send(attrs.evolve(message, traceback=message.traceback[-SHORT_TRACEBACK_CHARS:]))

    def hello(self) -> wire.Hello:
        """Block for the first message."""
        while not self._inbox:
            readable = select.poll()
            readable.register(self._sock, select.POLLIN)
            readable.poll()
            self._receive()
        first = self._inbox.popleft()
        assert isinstance(first, wire.Hello)
        return first

    async def wait_messages(self) -> None:
        """Until something has come, which `next_message` may give."""
        await trio.lowlevel.wait_readable(self._sock)
        self._receive()

    def next_message(self) -> wire.Message | None:
        """What came in, in order."""
        try:
            return self._inbox.popleft()
        except IndexError:
            return None

    def _receive_anywhere(self) -> None:
        self._receive()
        if self._inbox and self.on_messages is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self.on_messages()

    def _receive(self) -> None:
        """Take in what there is, without blocking: answers to connects for who waits for them, the rest for the session."""
        with self._receiving:
            try:
                # One descriptor at a time is all that the kernel sends (`service_process._send_part`).
                data, ancillary, flags, _ = self._sock.recvmsg(RECEIVE_BYTES, RIGHTS_BYTES, RECEIVE_FLAGS)
            except BlockingIOError:
                return
            except ConnectionError:
                os._exit(EXIT_KERNEL_GONE)
            if not data:
                os._exit(EXIT_KERNEL_GONE)
            descriptors = [struct.unpack("i", rights)[0] for *_, rights in ancillary]
            self.broker.arrived(descriptors, lost=bool(flags & socket.MSG_CTRUNC) and not descriptors)
            for message in self._wire.receive(data):
                if isinstance(message, wire.Connected):
                    self.broker.answered(message)
                else:
                    self._inbox.append(message)


class _WireHandler(logging.Handler):
    """`logging` of the service becomes its log."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = traceback_tail(record.exc_info[1])
        level = record.levelname.lower()
        self._link.log(level if level in LEVELS else "info", _bounded(record.getMessage()), printable(fields))


LEVELS: Final = frozenset({"debug", "info", "warning", "error", "critical"})


def _bounded(text: str) -> str:
    return text[:LOG_MESSAGE_CHARS_MAX].encode("utf-8", "backslashreplace").decode()


def live(link: Link) -> int:
    """The whole life of the service that the kernel greets; its exit code."""
    hello = link.hello()
    try:
        module = Module.from_namespace(_load(hello))
    except BaseException as error:  # noqa: BLE001 - the fence around the import of service code
        link.last_word(wire.Failed(reason_of(error), traceback_tail(error)))
        return 1
    link.send(wire.Loaded())
    try:
        verdict = trio.run(_Session(link, hello, module).serve)
    except BaseException as error:  # noqa: BLE001 - service code broke Trio itself
        verdict = crashed(error)
    link.last_word(wire.Ended(verdict.kind, verdict.reason, verdict.traceback))
    return verdict.exit_code if 0 <= verdict.exit_code <= 255 else 1


def _load(hello: wire.Hello) -> dict[str, Any]:
    filename = f"<service {re.sub(r'[^A-Za-z0-9_.-]', '_', hello.service_id)}>"
    if hello.format == "python_zip":
        return zip_modules.load(hello.body, filename)
    text = hello.body.decode("utf-8")
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    code = compile(text, filename, "exec", dont_inherit=True)
    module = ModuleType(MODULE_NAME)
    sys.modules[MODULE_NAME] = module  # where dataclasses and typing look for it
    exec(code, module.__dict__)  # noqa: S102 - what this process is for
    return module.__dict__


@define
class _Waiting:
    """An `Ask` and, later, its answer."""

    answered: trio.Event = field(factory=trio.Event)
    answer: wire.Answer | None = None


class _Session:
    """The Trio side: the life of the service, with the wire beside it."""

    def __init__(self, link: Link, hello: wire.Hello, module: Module) -> None:
        self._link = link
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = link.broker.numbers
        context = Context(
            tenant_id=hello.tenant_id,
            service_id=hello.service_id,
            version=hello.version,
            generation=hello.generation,
            isolation=hello.isolation,
            config=hello.config,
            sink=link.log,
            ask=self._ask,
            reveal=self._reveal,
            may=self._may,
        )
        self._life = Life(module, context, hello.calls_in_flight, lambda: link.send(wire.Ready()))

    async def serve(self) -> Verdict:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            verdict = await self._life.run()
            nursery.cancel_scope.cancel()
        return verdict

    async def _read(self) -> None:
        token = trio.lowlevel.current_trio_token()
        self._link.on_messages = functools.partial(token.run_sync_soon, self._take_all, idempotent=True)
        while True:
            self._take_all()
            await self._link.wait_messages()

    def _take_all(self) -> None:
        while (message := self._link.next_message()) is not None:
            self._take(message)

    def _take(self, message: wire.Message) -> None:
        match message:
            case wire.Call():
                done = functools.partial(self._reply, message.id)
                self._life.call(message.id, message.function, message.args, message.kwargs, message.caller, done)
            case wire.Cancel():
                self._life.cancel(message.id)
            case wire.Stop():
                self._life.stop()
            case wire.Answer() if message.id in self._waiting:
                waiting = self._waiting[message.id]
                waiting.answer = message
                waiting.answered.set()
            case _:
                pass  # the answer to an Ask that was dropped meanwhile

    def _reply(self, number: int, reply: Reply) -> None:
        try:
            self._link.send(wire.Result(number, reply.kind, reply.value, reply.error_type, reply.message))
        except wire.FrameTooLarge as error:
            self._link.send(wire.Result(number, "result_not_serialisable", None, "", message_of(error)))

    async def _ask(
        self, call: int, service_id: str, function: str, args: list[Any], kwargs: dict[str, Any], timeout_s: float
    ) -> Any:
        number = next(self._numbers)
        return await self._answer_to(wire.Ask(number, call, service_id, function, args, kwargs, timeout_s))

    async def _may(self, call: int, resource: str, permission: str) -> bool:
        return bool(await self._answer_to(wire.AskRight(next(self._numbers), call, resource, permission)))

    async def _reveal(self, name: str) -> str | bytes:
        value = await self._answer_to(wire.AskSecret(next(self._numbers), name))
        return base64.b64decode(value["base64"]) if "base64" in value else str(value["text"])

    async def _answer_to(self, asked: wire.Ask | wire.AskSecret | wire.AskRight) -> Any:
        number = asked.id
        waiting = self._waiting[number] = _Waiting()
        try:
            try:
                self._link.send(asked)
            except wire.FrameTooLarge as error:
                raise CallError("too_large", message_of(error)) from None
            try:
                await waiting.answered.wait()
            except trio.Cancelled:
                self._link.send(wire.Drop(number))
                raise
        finally:
            del self._waiting[number]
        answer = waiting.answer
        assert answer is not None
        if answer.code:
            raise CallError(answer.code, answer.detail)
        return answer.value
