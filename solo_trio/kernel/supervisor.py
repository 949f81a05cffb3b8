"""One supervising task per service. Owns: starting, watching and stopping one deployment. Never: decides what is wanted.

Level-triggered: it compares what the state wants with what runs, does the next step, and reports what it saw as a command.
Whatever it waits for, a change of the state or the kernel's shutdown wakes it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from attrs import evolve

from solo_trio.errors import Faulted, Rejected, SoloError, StorageFull
from solo_trio.kernel.loop import submission_error
from solo_trio.kernel.places import Place
from solo_trio.kernel.planning import failure_of, lacking, stop_reason
from solo_trio.kernel.siblings import Siblings
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.surroundings import Surroundings
from solo_trio.model import service_reports as reports
from solo_trio.model.ending import Breach, Ending
from solo_trio.model.limits import Limits, effective
from solo_trio.model.service import ServiceState, StopRequest
from solo_trio.policy.backoff import restart_delay
from solo_trio.policy.egress import NOWHERE, Reach, service_list
from solo_trio.policy.redaction import Redactor
from solo_trio.policy.together import RESOURCE as TOGETHER
from solo_trio.ports import Launch, LogSink, Running

STORAGE_RETRY_S: Final = 1.0
START_LIMIT_ALL: Final = 64
WATCHED_LIMITS: Final = frozenset({"memory_mb", "cpu_seconds"})
"""What the monitor kills for: lowered, they count at once even where the runtime cannot change them."""
CPU_SIGNAL: Final = "SIGXCPU"
"""What ends a process that has used its processor time up before a sample has seen it."""
SUPERVISED_LIMITS: Final = frozenset({"start_timeout_s", "stop_timeout_s"})
"""What the supervising task looks up whenever it needs it."""


class ServiceSupervisor:
    """Runs one deployment of one service until nothing is wanted of it any more."""

    def __init__(
        self,
        core: Surroundings,
        tenant_id: str,
        incarnation: str,
        service_id: str,
        deployment: int,
        siblings: Siblings,
    ) -> None:
        self._core = core
        self._tenant_id = tenant_id
        self._incarnation = incarnation
        self._service_id = service_id
        self.deployment = deployment
        self._siblings = siblings
        self._changed = trio.Event()
        self._wait = trio.CancelScope()
        """Around what it waits for that a change ends."""
        self.running: Running | None = None
        """What runs now, ready or not."""
        self.ending_until: float | None = None
        """While what runs is being ended: when the patience for that is over."""
        self._generation = 0
        self._epoch = 0
        self._delayed_until: tuple[int, float] | None = None
        self._limits = Limits()
        """What counts for `running`."""
        self._enforced = Limits()
        """What the runtime itself holds it to."""
        self._later: dict[str, float] = {}
        """What was tried to be changed for it and cannot be."""
        self._log: LogSink | None = None
        self._redactor = Redactor()
        """Knows the secrets of the newest generation."""
        self._breach: Breach | None = None
        """Why what runs was killed, if it was for a limit."""

    @property
    def generation(self) -> int:
        """The newest that was begun here."""
        return self._generation

    def notify(self) -> None:
        """The state of this service, or what the kernel does as a whole, has changed; or what runs has ended."""
        self._changed.set()
        self._wait.cancel()

    @property
    def limits(self) -> Limits:
        """What counts for what runs."""
        return self._limits

    def end_for(self, breach: Breach) -> None:
        """Kill what runs because of a limit: a crash, unless it is being ended anyway."""
        if self.running is None or self.running.ended.is_set() or self.ending_until is not None:
            return
        self._breach = self._breach or breach  # the first is the reason, if it takes a while to die
        self.running.kill()

    def _state(self) -> ServiceState | None:
        """This deployment, while it is the current one."""
        service = self._newest()
        return service if service is not None and service.deployment == self.deployment else None

    def _newest(self) -> ServiceState | None:
        """Whatever is wanted under this service's id now; another deployment, if this one is being replaced."""
        tenant = self._core.loop.state.tenants.get(self._tenant_id)
        if tenant is None or tenant.incarnation != self._incarnation:
            return None
        return tenant.services.get(self._service_id)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            try:
                while await self._step(nursery):
                    pass
            except SoloError as error:
                if not submission_error(error):
                    raise
                await self._end_quietly()
            finally:
                if self.running is not None:  # cancelled, or a defect: nothing may outlive its supervisor
                    self.running.kill()
            nursery.cancel_scope.cancel()  # what could not be killed in the time of the shutdown

    async def _step(self, nursery: trio.Nursery) -> bool:
        """One comparison and what follows from it; False when there is nothing left to do."""
        self._changed = trio.Event()
        service = self._state()
        if self._core.closing:
            await self._end_quietly()
            return False
        if service is None:
            await self._end_quietly()
            return False
        if service.stop is not None:
            await self._stop(service)
            return False
        if not service.wants_to_run:
            await self._end_quietly()
            return False
        if self.running is not None and self._epoch != service.epoch:
            await self._end(self._grace_s(service), force=False)
        elif self.running is None and service.begun:  # an earlier supervising task failed after it began this one
            self._generation = service.generation
            await self._report_end(Ending("lost", "its supervising task failed"), timed_out=False)
        elif self.running is None:
            await self._start(service, nursery)
        elif self.running.ended.is_set():
            await self._report_ended(self.running.ending or _no_ending(), timed_out=False)
        else:
            self.apply_limits()
            await self._changed.wait()
        return True

    def apply_limits(self) -> frozenset[str]:
        """Make the limits that are wanted now count for what runs; the names of those that only the next start can bring.

        What it may reach is looked up whenever it connects; connections that it is no longer to have are cut here.
        """
        if self.running is not None:
            self.running.reconsider_egress()
        service = self._state()
        if service is None or not service.begun:
            return frozenset()
        limits = effective(service.spec.limits, self._core.ceiling_of(self._tenant_id))
        if limits == self._limits:  # mostly; each start looks several times
            self._later = {}
            return frozenset()
        wanted, before = limits.given(), self._limits.given()
        changed = {name for name, value in wanted.items() if before.get(name) != value} - SUPERVISED_LIMITS
        if self.running is None:  # it is being started with what was wanted before; looked at again right after
            return frozenset(changed)
        asked = {name: wanted[name] for name in changed if self._later.get(name) != wanted[name]}
        done = self.running.adjust(asked) if asked else frozenset()
        self._enforced = evolve(self._enforced, **{name: wanted[name] for name in done})
        enforced = self._enforced.given()
        lower = {name for name in changed & WATCHED_LIMITS if wanted[name] <= enforced.get(name, math.inf)}
        if lower - done and self.running.usage():  # the monitor sees to it, if nothing else can
            done |= lower
        self._limits = evolve(self._limits, **{name: wanted[name] for name in done})
        self._later = {name: wanted[name] for name in changed - done}
        return frozenset(self._later)

    # -- starting

    async def _start(self, service: ServiceState, nursery: trio.Nursery) -> None:
        if not await self._wait_for_delay(service) or not await self._wait_for_dependencies(service):
            return
        async with Place((self._siblings.starts, self._core.starts), self._unless_changed) as place:
            if not place.taken:
                return
            begin = reports.BeginStart(
                self._tenant_id, self._incarnation, self._service_id, self.deployment, service.epoch
            )
            generation = await self._report(begin)
            if generation is None:
                return
            self._generation, self._epoch = generation, service.epoch
            self._later, self._breach = {}, None
            self._enforced = self._limits = limits = effective(
                service.spec.limits, self._core.ceiling_of(self._tenant_id)
            )
            failure = await self._run_unless_unwanted(service, limits, nursery)
            if failure is not None:
                await self._report_end(failure, timed_out=False)
            if self.running is None:
                return
            in_time = await self._wait_until_ready(self.running, limits.start_timeout_s or 0)
        if not in_time:
            await self._end_late_start(self.running, limits.start_timeout_s or 0)

    async def _run_unless_unwanted(self, service: ServiceState, limits: Limits, nursery: trio.Nursery) -> Ending | None:
        """Start it; given up if it is no longer wanted before the runtime has answered. An ending: it could not start."""
        failure: Ending | None = None
        async with trio.open_nursery() as racing:

            async def start() -> None:
                nonlocal failure
                try:
                    launch = await self._launch(service, limits)
                    self.running = await self._core.runtimes[service.spec.isolation].start(launch, nursery)
                    nursery.start_soon(self._tell_end, self.running)
                except (Faulted, Rejected) as error:
                    failure = failure_of(error)
                racing.cancel_scope.cancel()

            racing.start_soon(start)
            while self._is_wanted():
                self._changed = trio.Event()
                await self._changed.wait()
            racing.cancel_scope.cancel()
        return failure

    def _is_wanted(self) -> bool:
        """Whether the generation that was begun last is still to run."""
        service = self._state()
        return not (self._core.closing or service is None or not service.wants_to_run or service.epoch != self._epoch)

    async def _wait_for_dependencies(self, service: ServiceState) -> bool:
        """Until all that it depends on is ready; False if something changed meanwhile (a dependency, or itself)."""
        services = self._core.loop.state.tenants[self._tenant_id].services
        lacks = lacking(services, service, self._siblings.stuck)
        if service.confirmed:
            self._siblings.looked(services, self._service_id, is_stuck=bool(lacks.lost))
        if not lacks.missing:
            return True
        if lacks.fails is not None:
            which = (self._tenant_id, self._incarnation, self._service_id, self.deployment)
            await self._report(reports.GiveUpDeployment(*which, lacks.fails))
            return False
        with self._siblings.waiting(service.spec.depends_on, self.notify):
            await self._changed.wait()
        return False

    async def _wait_for_delay(self, service: ServiceState) -> bool:
        """Wait out the backoff; False if something changed meanwhile. A spurious wake-up does not begin it anew."""
        if service.attempt == 0 or service.next_cause not in ("restart", "deploy"):
            return True
        if self._delayed_until is None or self._delayed_until[0] != service.generation:
            limits = service.spec.restart_limits
            delay = restart_delay(
                service.attempt,
                self._core.entropy.uniform(),
                max_restarts=limits.max_restarts,
                max_seconds=limits.max_seconds,
            )
            self._delayed_until = (service.generation, trio.current_time() + delay)
        with trio.move_on_at(self._delayed_until[1]):
            await self._changed.wait()
            return False
        return True

    async def _launch(self, service: ServiceState, limits: Limits) -> Launch:
        source: str | bytes = ""
        if service.spec.entry == "source":
            content = (await self._core.journal.artifact(service.spec.digest)).content
            source = content if service.spec.format == "python_zip" else content.decode()
        self._redactor = Redactor()
        self._log = self._core.logs.sink(
            self._incarnation,
            self._service_id,
            self._generation,
            bytes_per_s=limits.log_bytes_per_s,
            redactor=self._redactor,
        )
        given = evolve(limits, start_timeout_s=None, stop_timeout_s=None, log_bytes_per_s=None).given()
        return Launch(
            tenant_id=self._tenant_id,
            incarnation=self._incarnation,
            service_id=self._service_id,
            version=service.version,
            generation=self._generation,
            entry=service.spec.entry,
            source=source,
            config=service.spec.config,
            limits=given,
            log=self._log,
            outgoing=self._core.outgoing(self._tenant_id, self._incarnation, self._service_id, self.deployment),
            environment=service.spec.environment,
            egress=self._reach,
            secret=self._core.secrets_of(
                self._tenant_id,
                self._incarnation,
                self._service_id,
                self.deployment,
                self._generation,
                self._redactor,
            ),
            redactor=self._redactor,
            may=self._core.rights(self._tenant_id, self._incarnation),
        )

    def _reach(self) -> Reach:
        """What the service may reach at this moment; nothing once another deployment has its place."""
        service = self._state()
        if service is None:
            return NOWHERE
        return Reach(service_list(service.spec.egress), self._core.egress_allowed)

    async def _wait_until_ready(self, running: Running, timeout_s: float) -> bool:
        """Until it is ready (reported), ended, or no longer wanted (left to the next step); False if that took too long."""
        deadline = trio.current_time() + timeout_s
        while True:
            self.apply_limits()
            if running.ready.is_set():  # asked first: it was ready, even if it has ended since
                await self._report_ready()
                return True
            if running.ended.is_set() or not self._is_wanted():
                return True
            if trio.current_time() >= deadline:
                return False
            self._changed = trio.Event()
            with trio.move_on_at(deadline):
                await self._unless_changed(running.ready.wait)

    async def _end_late_start(self, running: Running, timeout_s: float) -> None:
        """It did not become ready in time: kill it and report. Its place is free already, should it not die at once."""
        running.kill()
        await self._wait_ended(running, math.inf, killed=True)
        if not running.ended.is_set():
            return
        traceback = running.ending.traceback if running.ending is not None else ""
        ending = Ending("crashed", f"did not become ready within {timeout_s:g} s", traceback)
        await self._report_ended(ending, timed_out=True)

    async def _report_ready(self) -> None:
        await self._report(
            reports.ReportReady(self._tenant_id, self._incarnation, self._service_id, self.deployment, self._generation)
        )

    # -- ending

    def _grace_s(self, service: ServiceState) -> float:
        return effective(service.spec.limits, self._core.ceiling_of(self._tenant_id)).stop_timeout_s or 0

    async def _stop(self, service: ServiceState) -> None:
        """A stop was asked for: end what runs, then say so."""
        assert service.stop is not None
        if self.running is None:
            reason = stop_reason(service, started_here=self._generation != 0)
            await self._report(
                reports.ReportStopped(self._tenant_id, self._incarnation, self._service_id, self.deployment, reason)
            )
            return
        ending = await self._end(service.stop.grace_ms / 1_000, force=service.stop.force)
        if ending is None:
            return  # the kernel closes: the next one finishes the stop
        if service.begun:
            await self._report_end(ending, timed_out=False)
        else:  # a restart by hand was on its way, so no outcome is expected of what just ended
            await self._report(
                reports.ReportStopped(
                    self._tenant_id, self._incarnation, self._service_id, self.deployment, ending.kind
                )
            )

    async def _end(self, grace_s: float, *, force: bool) -> Ending | None:
        """Ask it to end, wait the grace, kill it, wait until it is gone (a shielded task: for as long as it takes).

        A shutdown of the kernel shortens the grace; None if it lives at the end of that too.
        """
        assert self.running is not None
        running = self.running
        self.ending_until = trio.current_time() + (0 if force else grace_s)
        if not force:
            running.request_stop()
            await self._wait_ended(running, trio.current_time() + grace_s, killed=False)
        if not running.ended.is_set():
            self._core.killed_at_close += self._core.closing
            running.kill()
            await self._wait_ended(running, math.inf, killed=True)
        self.running = self.ending_until = None
        return self._explained(running.ending or _no_ending()) if running.ended.is_set() else None

    async def _wait_ended(self, running: Running, until: float, *, killed: bool) -> None:
        """Until it has ended, or the time is over: `until`, or the shutdown's, which may begin meanwhile."""
        obeyed = self._stop_request()
        while not running.ended.is_set():
            stop = self._stop_request()
            if not killed and stop is not None and stop != obeyed:  # asked again, with less patience
                obeyed, until = stop, min(until, trio.current_time() + (0 if stop.force else stop.grace_ms / 1_000))
            deadline = min(until, self._core.close_deadline if killed else self._core.stop_deadline)
            if trio.current_time() >= deadline:
                return
            self._changed = trio.Event()
            with trio.move_on_at(deadline):
                await self._changed.wait()

    def _stop_request(self) -> StopRequest | None:
        service = self._newest()
        return None if service is None else service.stop

    async def _end_quietly(self) -> None:
        """Nothing is wanted of it and nothing is recorded: it was paused or replaced, the kernel closes, it is gone."""
        if self.running is None:
            return
        if self._core.closing:
            await self._siblings.wait_dependents_ended(self._service_id, self._core.stop_deadline)
            await self._end(math.inf, force=False)
            return
        newest = self._newest()
        replaced = None if newest is None else newest.previous
        service = replaced if replaced is not None and replaced.deployment == self.deployment else self._state()
        if service is None:
            await self._end(0, force=True)
        else:
            await self._end(self._grace_s(service), force=False)

    async def _report_ended(self, ending: Ending, *, timed_out: bool) -> None:
        self.running = None
        await self._report_end(self._explained(ending), timed_out=timed_out)

    def _explained(self, ending: Ending) -> Ending:
        """An ending that a limit was the reason of says so; so does the service's log."""
        breach = ending.breach
        if ending.kind == "killed" and self._breach is not None:
            breach = self._breach
        elif ending.kind == "crashed" and ending.signal == CPU_SIGNAL:
            breach = Breach("cpu_seconds")
        if breach is None:
            return ending
        limit = self._limits.given().get(breach.resource, 0.0) if breach.limit is None else breach.limit
        value = limit if breach.value is None else breach.value
        reason = f"killed for its use of {breach.resource}: {value:g} of {limit:g}"
        if breach.resource == TOGETHER:
            reason = f"killed, as it used most of what its tenant may use together ({TOGETHER}): {value:g} of {limit:g}"
        if self._log is not None:
            self._log("log", "error", reason, {"resource": breach.resource, "value": value, "limit": limit})
        return evolve(ending, kind="crashed", reason=reason, breach=Breach(breach.resource, value, limit))

    async def _report_end(self, ending: Ending, *, timed_out: bool) -> None:
        redact = self._redactor.text
        ending = evolve(ending, reason=redact(ending.reason), traceback=redact(ending.traceback))
        await self._report(
            reports.ReportEnded(
                self._tenant_id,
                self._incarnation,
                self._service_id,
                self.deployment,
                self._generation,
                ending,
                timed_out=timed_out,
            )
        )

    # -- waiting and telling

    async def _report(self, command: Any) -> Any:
        """Submit what was observed; on a full disk again and again, because it must not be lost while the kernel lives."""
        while True:
            submission = Submission(command, causation_id=self.deployment, ends_stop=self._stop_request() is not None)
            try:
                return await self._core.loop.report(submission)
            except StorageFull:
                if self._core.closing:
                    return None
                await trio.sleep(STORAGE_RETRY_S)

    async def _tell_end(self, running: Running) -> None:
        await running.ended.wait()
        self.notify()

    async def _unless_changed(self, wait: Callable[[], Awaitable[Any]]) -> None:
        """Until `wait` is over, or something changed. A scope, as a nursery with two tasks costs each start 0.2 ms."""
        with trio.CancelScope() as self._wait:
            if self._changed.is_set():
                self._wait.cancel()
            await wait()


def _no_ending() -> Ending:
    return Ending("lost", "it ended without saying how")
