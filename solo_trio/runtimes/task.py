"""The task runtime. Owns: trusted code as a Trio task in the kernel's own process. Never: isolates; Python has no such wall."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import trio
from attrs import define, field

from solo_trio.errors import Faulted, Rejected, SoloError
from solo_trio.model.mandate import NOBODYS, Mandate
from solo_trio.ports import Ending, Launch
from solo_trio.runtimes.fence import fenced, reason_of, traceback_tail
from solo_trio.runtimes.life import CALLS_IN_FLIGHT_DEFAULT, Life, Reply
from solo_trio.runtimes.replies import call_interrupted, call_over, value_of
from solo_trio.runtimes.wire import FRAME_BYTES_MAX, RESULT_BYTES_MAX
from solo_trio.service.calling import CallError
from solo_trio.service.context import Context
from solo_trio.service.module import Module, NotAService


@define
class _Pending:
    """A call and, later, its reply. `mandate`: None once it was given up."""

    mandate: Mandate | None
    done: trio.Event = field(factory=trio.Event)
    reply: Reply = field(factory=lambda: Reply("interrupted"))


class ServiceTask:
    """`ports.Running` for a task. A shielded `main` lives on after `kill`, until it ends by itself."""

    def __init__(self, launch: Launch, module: Module | None, ending: Ending | None = None) -> None:
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.ending = ending
        self.launch = launch
        self._killed = False
        self._next_call = 1
        self._calls: dict[int, _Pending] = {}
        self._life: Life | None = None
        if module is None:
            self.ended.set()
            return
        calls_max = int(launch.limits.get("calls_in_flight", CALLS_IN_FLIGHT_DEFAULT))
        context = Context(
            tenant_id=launch.tenant_id,
            service_id=launch.service_id,
            version=launch.version,
            generation=launch.generation,
            isolation="task",
            config=launch.config,
            sink=functools.partial(launch.log, "log"),
            ask=self._ask,
            reveal=self._reveal,
            may=self._may,
        )
        self._context = context
        self._life = Life(module, context, calls_max, self.ready.set)

    async def call(self, function: str, args: Sequence[Any], kwargs: dict[str, Any], mandate: Mandate = NOBODYS) -> Any:
        """See `ports.Running.call`. The function runs in the service's nursery, not in the caller's task."""
        if self._life is None or self.ended.is_set():
            raise call_interrupted(self.launch.service_id)
        copies = _copy(list(args), "the arguments", FRAME_BYTES_MAX), _copy(kwargs, "the arguments", FRAME_BYTES_MAX)
        number, self._next_call = self._next_call, self._next_call + 1
        pending = self._calls[number] = _Pending(mandate)
        self._life.call(number, function, *copies, mandate.view(), functools.partial(self._reply, number))
        try:
            await pending.done.wait()
        except trio.Cancelled:
            pending.mandate = None
            self._life.cancel(number)
            raise
        reply = pending.reply
        value = reply.value
        if reply.kind == "ok":
            try:
                value = _copy(value, "the result", RESULT_BYTES_MAX)
            except Rejected as error:
                raise Faulted("result_not_serialisable", error.detail) from None
        message = self.launch.redactor.text(reply.message)
        return value_of(self.launch.service_id, function, reply.kind, value, reply.error_type, message)

    def request_stop(self) -> None:
        """See `ports.Running.request_stop`."""
        if self._life is not None:
            self._life.stop()

    def kill(self) -> None:
        """See `ports.Running.kill`: all that can be done is what `request_stop` does."""
        if not self.ended.is_set():
            self._killed = True
            self.request_stop()

    def adjust(self, limits: Mapping[str, float]) -> frozenset[str]:
        """See `ports.Running.adjust`: a task has no other limit."""
        calls_max = limits.get("calls_in_flight")
        if self._life is None or calls_max is None:
            return frozenset()
        self._life.calls_max = int(calls_max)
        return frozenset({"calls_in_flight"})

    def reconsider_egress(self) -> None:
        """Nothing: a task is trusted, with the network too."""

    def usage(self, *, exactly: bool = False) -> dict[str, float]:
        """Nothing: a task has no memory of its own to measure."""
        return {}

    # A real Ctrl-C must reach the application, not whichever service happens to run; see `tests/runtimes/test_task.py`.
    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Until the service ended. Nothing comes out of it but the `Cancelled` of an outer scope."""
        assert self._life is not None
        try:
            verdict = await self._life.run()
        finally:
            await self._context.close()
        kind: Any = "killed" if self._killed and verdict.kind == "stopped" else verdict.kind
        self.ending = Ending(kind, verdict.reason, verdict.traceback)
        self.ended.set()
        for pending in self._calls.values():
            pending.done.set()
        self._calls.clear()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _reply(self, number: int, reply: Reply) -> None:
        pending = self._calls.pop(number, None)
        if pending is not None:
            pending.reply = reply
            pending.done.set()

    async def _ask(
        self, call: int, service_id: str, function: str, args: list[Any], kwargs: dict[str, Any], timeout_s: float
    ) -> Any:
        try:
            mandate = self._mandate_of(call) if call else None
            return await self.launch.outgoing(service_id, function, args, kwargs, timeout_s, mandate)
        except SoloError as error:
            raise CallError(error.code, error.detail) from None

    async def _may(self, call: int, resource: str, permission: str) -> bool:
        await trio.lowlevel.checkpoint()
        try:
            return self.launch.may(self._mandate_of(call), resource, permission)
        except SoloError as error:
            raise CallError(error.code, error.detail) from None

    def _mandate_of(self, call: int) -> Mandate:
        """What a call in flight to this service carries. Raises `Rejected("permission_denied")`."""
        pending = self._calls.get(call)
        if pending is None or pending.mandate is None:
            raise call_over()
        return pending.mandate

    async def _reveal(self, name: str) -> str | bytes:
        try:
            return await self.launch.secret(name)
        except SoloError as error:
            raise CallError(error.code, error.detail) from None


class TaskRuntime:
    """`ports.Runtime` for trusted code.

    `callables`: what "callable:NAME" means; `allowed_imports`: dotted prefixes that "import:MODULE" or "import:MODULE:ATTR"
    must equal or be below. The log never makes the kernel import anything else.
    """

    isolation = "task"

    def __init__(self, callables: Mapping[str, object], allowed_imports: Sequence[str] = ()) -> None:
        self._callables = callables
        self._allowed_imports = tuple(allowed_imports)
        self._services: set[ServiceTask] = set()
        self.owners: dict[trio.lowlevel.Task, Launch] = {}
        """Whose the tasks are in which service code begins; what it starts is below them (`watchdog`)."""

    async def start(self, launch: Launch, nursery: trio.Nursery) -> ServiceTask:
        """See `ports.Runtime.start`. An entry that does not load has ended on return."""
        await trio.lowlevel.checkpoint()
        with self._owned(launch):
            outcome = await fenced(trio.CancelScope(), functools.partial(self._load, launch.entry))
        if outcome.error is not None:
            error = outcome.error
            return ServiceTask(launch, None, Ending("load_failed", reason_of(error), traceback_tail(error)))
        service = ServiceTask(launch, outcome.value)
        self._services.add(service)
        nursery.start_soon(self._run, service, name=f"service {launch.service_id}")
        return service

    def check(self, entry: str) -> None:
        """Raise `NotAService` for an entry that this kernel has not, or may not import; nothing is imported for it."""
        kind, _, name = entry.partition(":")
        if kind == "callable" and name not in self._callables:
            raise NotAService(f"no callable {name!r} was passed to this kernel")
        if kind not in ("callable", "import"):
            raise NotAService(f"a task runs callable:NAME or import:PATH, not {entry!r}")
        path = name.partition(":")[0]
        allowed = any(path == prefix or path.startswith(f"{prefix}.") for prefix in self._allowed_imports)
        if kind == "import" and not allowed:
            raise NotAService(f"importing {path!r} is not allowed by the configuration")

    def confinement(self) -> dict[str, Any]:
        """See `ports.Runtime.confinement`: Python in one process is no boundary."""
        return {"level": 0}

    async def probe(self) -> object:
        """See `ports.Runtime.probe`."""
        return None

    async def forget(self, incarnation: str) -> None:
        """Nothing is kept: a task lives in its tenant's nursery."""
        await trio.lowlevel.checkpoint()

    async def close(self, deadline: float) -> None:
        """See `ports.Runtime.close`. A shielded task may outlive it."""
        for service in self._services:
            service.kill()
        with trio.CancelScope(deadline=deadline):
            for service in list(self._services):
                await service.ended.wait()

    @trio.lowlevel.enable_ki_protection
    async def _run(self, service: ServiceTask) -> None:
        try:
            with self._owned(service.launch):
                await service.run()
        finally:
            self._services.discard(service)

    @contextmanager
    def _owned(self, launch: Launch) -> Iterator[None]:
        """The current task runs code of that service."""
        task = trio.lowlevel.current_task()
        self.owners[task] = launch
        try:
            yield
        finally:
            del self.owners[task]

    @trio.lowlevel.enable_ki_protection
    async def _load(self, entry: str) -> Module:
        self.check(entry)
        kind, _, name = entry.partition(":")
        if kind == "callable":
            return Module.from_object(self._callables[name])
        path, _, attribute = name.partition(":")
        thing: object = importlib.import_module(path)
        for part in attribute.split(".") if attribute else ():
            thing = getattr(thing, part)
        return Module.from_object(thing)


def _copy(value: Any, what: str, bytes_max: int) -> Any:
    """Through JSON and back, as between processes: what a service does to it is nobody else's."""
    try:
        data = orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise Rejected("too_large", f"{what} do not fit: {error}") from None
    if len(data) > bytes_max:
        raise Rejected("too_large", f"{what}: {len(data)} bytes; at most {bytes_max} are taken")
    return orjson.loads(data)
