"""What every runtime must do: one suite, a subclass for each (`test_task.py`, `test_process.py`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from runtime_rig import Rig

from solo_trio.errors import Faulted, Rejected, SoloError
from solo_trio.model.capability import Authority
from solo_trio.model.caveat import read_caveats
from solo_trio.model.mandate import NOBODYS, Mandate

IDLE = """
    import trio
    from solo_trio import service
    async def main(ctx):
        await trio.sleep_forever()
"""
EXPORTS = """
    import threading, trio
    from solo_trio import service

    class Odd:
        pass

    @service.export
    def add(a, b=1):
        assert threading.current_thread() is not threading.main_thread()
        return a + b

    @service.export
    async def shout(text):
        await trio.lowlevel.checkpoint()
        return text.upper()

    @service.export
    async def echo(value):
        return value

    @service.export
    async def odd(which):
        deep = []
        for _ in range(5000):
            deep = [deep]
        return {"object": Odd(), "nan": float("nan"), "inf": [float("inf")], "bytes": b"x", "keys": {1: 2}, "big": 2**64,
                "deep": deep, "surrogate": chr(0xd800), "set": {1}}[which]

    @service.export
    async def pair():
        return (1, (2, 3))

    @service.export
    async def boom():
        raise ValueError("over here")

    @service.export
    def boom_in_thread():
        raise LookupError("over there")

    @service.export
    async def group():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(boom)

    def hidden():
        return 1
"""
ASKS = """
    import threading
    import trio
    from solo_trio import service

    async def main(ctx, task_status):
        global context, nursery
        context = ctx
        async with trio.open_nursery() as nursery:
            task_status.started()
            await trio.sleep_forever()

    @service.export
    async def ask(function="f"):
        return await context.call("other", function)

    @service.export
    async def ask_by_itself():
        return await context.own.call("other", "f")

    @service.export
    def ask_in_thread():
        return trio.from_thread.run(context.call, "other", "f"), repr(service.caller())

    @service.export
    async def ask_where_it_is_forgotten(how, by_itself):
        call, done, found = context.own.call if by_itself else context.call, trio.Event(), []

        async def ask():
            try:
                found.append(await call("other", "f"))
            except service.CallError as error:
                found.append([error.code, "ctx.own.call" in error.detail])
            done.set()

        if how == "thread":
            token = trio.lowlevel.current_trio_token()
            threading.Thread(target=lambda: trio.from_thread.run(ask, trio_token=token)).start()
        else:
            trio.lowlevel.spawn_system_task(ask)
        await done.wait()
        return found

    @service.export
    async def ask_below():
        async with trio.open_nursery() as below:
            below.start_soon(context.call, "other", "f")

    @service.export
    async def leave_behind(begin):
        nursery.start_soon(behind, begin)

    async def behind(begin):
        await context.own.call("gate", begin)
        try:
            await context.call("other", "f")
        except service.CallError as error:
            context.log.info("refused", code=error.code, of_caller=repr(service.caller()))

    @service.export
    async def hold():
        with trio.CancelScope(shield=True):
            try:
                await context.own.call("gate", "hold")
                await context.call("other", "f")
            except service.CallError as error:
                context.log.info("refused", code=error.code)

    @service.export
    async def who():
        found = context.caller
        assert found is service.caller()
        return [found.kind, found.tenant_id, found.capability_id, found.attenuations, found.services, found.service_id]

    @service.export
    async def may(permission, resource):
        try:
            return await service.caller().may(permission, resource)
        except service.CallError as error:
            return error.code

    @service.export
    async def demand(permission, resource):
        await service.caller().demand(permission, resource)
"""


def mandate_of(capability_id: str | None, *words: str) -> Mandate:
    """Somebody's, as a call over a gateway has it."""
    caveats = read_caveats(words, capability_id or "")
    assert caveats is not None
    return Mandate.of(Authority(capability_id, "tenant", "5010", caveats))


class RuntimeContract:
    isolation: str
    rig: Callable[[Path], AbstractAsyncContextManager[Rig]]

    # -- ready

    async def test_without_main_it_is_ready_once_loaded_and_lives_until_stopped(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(EXPORTS)
            assert not running.ended.is_set() and running.ending is None
            running.request_stop()
            running.request_stop()
            assert (await rig.ending(running)).kind == "stopped"

    async def test_main_is_ready_on_entry_and_completes_when_it_returns(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready("async def main(ctx): pass")
            assert (await rig.ending(running)).kind == "completed"

    async def test_with_task_status_it_is_ready_when_it_says_so(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            reached, gate = trio.Event(), trio.Event()

            async def outgoing(*_: Any) -> None:
                reached.set()
                await gate.wait()

            rig.outgoing = outgoing
            running = await rig.start(
                """
                import trio
                async def main(ctx, task_status):
                    await ctx.call("gate", "pass")
                    task_status.started()
                    await trio.sleep_forever()
                """
            )
            await reached.wait()
            assert not running.ready.is_set()
            gate.set()
            await running.ready.wait()

    async def test_returning_without_started_is_a_crash(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.start("async def main(ctx, *, task_status): pass")
            ending = await rig.ending(running)
            assert ending.kind == "crashed" and "task_status.started()" in ending.reason
            assert not running.ready.is_set()

    @pytest.mark.parametrize(
        "source",
        [
            "def main(ctx): pass",
            "async def main(): pass",
            "async def main(ctx, other): pass",
            "main = 3",
            "def broken(:",
            "1 / 0",
            "raise SystemExit(0)",
            "raise KeyboardInterrupt",
            "class Odd(BaseException): pass\nraise Odd('no')",
            "import no_such_module_at_all",
        ],
    )
    async def test_what_does_not_load(self, tmp_path: Path, source: str) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.start(source)
            ending = await rig.ending(running)
            assert ending.kind == "load_failed"
            assert ending.reason and ending.traceback
            assert not running.ready.is_set()
            with pytest.raises(Faulted) as caught:
                await running.call("add", [1], {})
            assert caught.value.code == "call_interrupted"

    # -- calls

    async def test_calls(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(EXPORTS)
            assert await running.call("add", [1, 2], {}) == 3
            assert await running.call("add", [1], {"b": 5}) == 6
            assert await running.call("shout", ["hé"], {}) == "HÉ"
            value = {"a": [1, 2.5, None, True, "x"], "b": {}}
            assert await running.call("echo", [value], {}) == value
            assert await running.call("pair", [], {}) == [1, [2, 3]]

    async def test_a_call_right_after_the_start_waits_for_the_load(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.start(EXPORTS)
            assert await running.call("add", [1, 2], {}) == 3

    async def test_a_call_given_up_right_after_the_start(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.start(EXPORTS)
            with trio.CancelScope() as scope:
                scope.cancel()
                await running.call("add", [1, 2], {})
            assert await running.call("add", [1, 2], {}) == 3

    async def test_calls_run_side_by_side(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(
                """
                import trio
                from solo_trio import service
                met = trio.Event()
                @service.export
                async def wait():
                    await met.wait()
                    return "waited"
                @service.export
                async def meet():
                    met.set()
                """
            )
            got = []
            async with trio.open_nursery() as nursery:

                async def waiter() -> None:
                    got.append(await running.call("wait", [], {}))

                nursery.start_soon(waiter)
                await trio.testing.wait_all_tasks_blocked()
                await running.call("meet", [], {})
            assert got == ["waited"]

    @pytest.mark.parametrize(
        ("function", "error_type", "message"),
        [
            ("boom", "ValueError", "over here"),
            ("boom_in_thread", "LookupError", "over there"),
            ("group", "ValueError", "over here"),
        ],
    )
    async def test_a_call_that_raises_does_not_end_the_service(
        self, tmp_path: Path, function: str, error_type: str, message: str
    ) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(EXPORTS)
            with pytest.raises(Faulted) as caught:
                await running.call(function, [], {})
            assert caught.value.code == "call_failed"
            assert caught.value.extra["error_type"] == error_type and message in caught.value.extra["message"]
            assert message in caught.value.detail
            assert await running.call("add", [1], {}) == 2

    async def test_wrong_arguments_are_a_failed_call(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(EXPORTS)
            with pytest.raises(Faulted) as caught:
                await running.call("shout", [], {"nonsense": 1})
            assert caught.value.extra["error_type"] == "TypeError" and "nonsense" in caught.value.extra["message"]

    @pytest.mark.parametrize("function", ["hidden", "nothing", "__init__", "main"])
    async def test_only_exports_can_be_called(self, tmp_path: Path, function: str) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(EXPORTS)
            with pytest.raises(Rejected) as caught:
                await running.call(function, [], {})
            assert caught.value.code == "function_not_found"

    async def test_results_that_are_not_json(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(EXPORTS)
            for which in ("object", "nan", "inf", "bytes", "keys", "big", "deep", "surrogate", "set"):
                with pytest.raises(Faulted) as caught:
                    await running.call("odd", [which], {})
                assert caught.value.code == "result_not_serialisable", which
            assert await running.call("add", [1], {}) == 2

    async def test_a_result_or_argument_beyond_a_frame_is_refused(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(
                """
                from solo_trio import service
                @service.export
                async def big(size):
                    return "x" * size
                @service.export
                async def size(text):
                    return len(text)
                """
            )
            with pytest.raises(Faulted) as caught:
                await running.call("big", [17 * 1024 * 1024], {})
            assert caught.value.code == "result_not_serialisable"
            with pytest.raises(Rejected) as refused:
                await running.call("size", ["x" * 17 * 1024 * 1024], {})
            assert refused.value.code == "too_large"
            with pytest.raises(Faulted) as caught:
                await running.call("big", [1_200_000], {})
            assert caught.value.code == "result_not_serialisable"
            assert len(await running.call("big", [1 << 20], {})) == 1 << 20
            assert await running.call("size", ["x" * 5_000_000], {}) == 5_000_000

    async def test_cancelling_the_caller_cancels_the_function(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(
                """
                import logging, trio
                from solo_trio import service
                log = None
                async def main(ctx):
                    global log
                    log = ctx.log
                    await trio.sleep_forever()
                @service.export
                async def wait():
                    log.info("entered")
                    try:
                        await trio.sleep_forever()
                    finally:
                        log.info("left")
                @service.export
                async def ping():
                    return "pong"
                """
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(running.call, "wait", [], {})
                await rig.line("entered")
                nursery.cancel_scope.cancel()
            await rig.line("left")
            assert await running.call("ping", [], {}) == "pong"

    async def test_too_many_calls_in_flight_are_refused(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(
                """
                import trio
                from solo_trio import service
                @service.export
                async def wait():
                    await trio.sleep_forever()
                """,
                limits={"calls_in_flight": 2},
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(running.call, "wait", [], {})
                nursery.start_soon(running.call, "wait", [], {})
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(Faulted) as caught:
                    await running.call("wait", [], {})
                assert caught.value.code == "overloaded"
                nursery.cancel_scope.cancel()

    async def test_a_blocked_sync_call_does_not_hold_up_a_stop(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(
                """
                import threading, trio
                from solo_trio import service
                release = threading.Event()
                log = None
                async def main(ctx):
                    global log
                    log = ctx.log
                    try:
                        await trio.sleep_forever()
                    finally:
                        ctx.log.info("stopping")
                @service.export
                def block():
                    trio.from_thread.run_sync(log.info, "blocking")
                    release.wait(600)
                """
            )
            codes = []

            async def caller() -> None:
                try:
                    await running.call("block", [], {})
                except SoloError as error:
                    codes.append(error.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller)
                await rig.line("blocking")
                running.request_stop()
                assert (await rig.ending(running)).kind == "stopped"
            assert codes == ["call_interrupted"]

    # -- ends

    async def test_stop_lets_main_clean_up(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(
                """
                import trio
                async def main(ctx):
                    try:
                        await trio.sleep_forever()
                    finally:
                        with trio.CancelScope(shield=True):
                            await trio.lowlevel.checkpoint()
                            ctx.log.info("cleaned")
                """
            )
            running.request_stop()
            assert (await rig.ending(running)).kind == "stopped"
            assert "cleaned" in rig.messages("log")

    async def test_kill(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(IDLE)
            running.kill()
            running.kill()
            assert (await rig.ending(running)).kind == "killed"
            running.kill()
            running.request_stop()
            assert running.usage() == {}

    async def test_a_crash_tells_where_without_our_own_frames(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.start(
                """
                async def deeper():
                    raise ZeroDivisionError("the reason")
                async def main(ctx):
                    await deeper()
                """
            )
            ending = await rig.ending(running)
            assert ending.kind == "crashed"
            assert ending.reason == "ZeroDivisionError: the reason"
            assert 'raise ZeroDivisionError("the reason")' in ending.traceback
            assert "in deeper" in ending.traceback and "in main" in ending.traceback
            assert "solo_trio" not in ending.traceback

    @pytest.mark.parametrize(
        "error", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()", "BaseException('odd')"]
    )
    @pytest.mark.parametrize("where", ["main", "call", "thread", "nursery"])
    async def test_base_exceptions_are_crashes_of_the_service(self, tmp_path: Path, error: str, where: str) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(
                f"""
                import trio
                from solo_trio import service
                def fail():
                    raise {error}
                async def afail():
                    fail()
                async def main(ctx):
                    if ctx.config["where"] == "main":
                        fail()
                    if ctx.config["where"] == "nursery":
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(trio.sleep_forever)
                            nursery.start_soon(afail)
                    await trio.sleep_forever()
                @service.export
                async def call():
                    fail()
                @service.export
                def thread():
                    fail()
                """,
                config={"where": where},
            )
            if where in ("call", "thread"):
                with pytest.raises(Faulted) as caught:
                    await running.call(where, [], {})
                assert caught.value.code == "call_interrupted"
            ending = await rig.ending(running)
            assert ending.kind == "crashed"
            assert ending.reason.startswith(error.partition("(")[0])
            assert "in fail" in ending.traceback

    async def test_an_error_of_clean_up_mixed_with_cancelled_is_the_true_reason(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(
                """
                import trio
                async def bad_clean_up(task_status):
                    try:
                        task_status.started()
                        await trio.sleep_forever()
                    finally:
                        raise OSError("clean-up failed")
                async def main(ctx, task_status):
                    async with trio.open_nursery() as outer:
                        async with trio.open_nursery() as inner:
                            await inner.start(bad_clean_up)
                            inner.start_soon(trio.sleep_forever)
                            task_status.started()
                            await trio.sleep_forever()
                """
            )
            running.request_stop()
            ending = await rig.ending(running)
            assert ending.kind == "crashed"
            assert ending.reason == "OSError: clean-up failed"
            assert "Cancelled" not in ending.reason

    async def test_a_stale_cancelled_is_an_error_of_the_service(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.start(
                """
                import trio
                async def main(ctx):
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        try:
                            await trio.lowlevel.checkpoint()
                        except trio.Cancelled as error:
                            kept = error
                    raise kept
                """
            )
            assert (await rig.ending(running)).kind == "crashed"

    async def test_an_exception_that_cannot_be_printed(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.start(
                """
                class Odd(Exception):
                    def __str__(self):
                        raise SystemExit(1)
                async def main(ctx):
                    raise Odd
                """
            )
            ending = await rig.ending(running)
            assert ending.kind == "crashed" and ending.reason.startswith("Odd")

    # -- ctx

    async def test_the_context(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.start(
                """
                async def main(ctx):
                    names = ["tenant_id", "service_id", "version", "generation", "isolation", "config"]
                    ctx.log.info("ctx", seen=[getattr(ctx, name) for name in names])
                    ctx.config["mine"] = 1
                """,
                config={"a": [1]},
            )
            await rig.ending(running)
            (_, _, _, fields) = await rig.line("ctx")
            assert fields == {"seen": ["tenant", "svc", 3, 7, self.isolation, {"a": [1]}]}

    async def test_logs(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.start(
                """
                async def main(ctx):
                    ctx.log.debug("a", n=1)
                    ctx.log.info("b", message="field")
                    ctx.log.warning("c", odd={1, 1})
                    ctx.log.error("d" * 100_000)
                    try:
                        1 / 0
                    except ZeroDivisionError:
                        ctx.log.exception("e")
                """
            )
            assert (await rig.ending(running)).kind == "completed"
            first, second, third, fourth, fifth = rig.lines
            assert first == ("log", "debug", "a", {"n": 1})
            assert second == ("log", "info", "b", {"message": "field"})
            assert third == ("log", "warning", "c", {"odd": "{1}"})
            assert fourth[1] == "error" and 1_000 < len(fourth[2]) < 100_000
            assert fifth[:3] == ("log", "error", "e") and "ZeroDivisionError" in fifth[3]["traceback"]

    async def test_calls_to_other_services(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:

            async def outgoing(service_id: str, function: str, args: Any, kwargs: Any, timeout_s: float) -> Any:
                if function == "missing":
                    raise Rejected("service_not_found", "there is none")
                return [service_id, function, args, kwargs]

            rig.outgoing = outgoing
            running = await rig.start(
                """
                import trio
                from solo_trio import service
                async def main(ctx):
                    ctx.log.info("got", value=await ctx.call("other", "f", 1, (2,), k=3))
                    try:
                        await ctx.call("other", "missing")
                    except service.CallError as error:
                        ctx.log.info("error", code=error.code)
                    with trio.move_on_after(2):
                        await ctx.call("other", "g")
                    try:
                        await ctx.call("other", "f", object())
                    except ValueError:
                        ctx.log.info("refused")
                """
            )
            assert (await rig.ending(running)).kind == "completed"
            assert (await rig.line("got"))[3] == {"value": ["other", "f", [1, [2]], {"k": 3}]}
            assert (await rig.line("error"))[3] == {"code": "service_not_found"}
            assert (await rig.line("refused"))[0] == "log"
            assert [asked[1] for asked in rig.asked] == ["f", "missing", "g"]
            assert rig.asked[0][4] == 30.0
            assert 0 < rig.asked[2][4] <= 2

    async def test_giving_up_an_outgoing_call_cancels_it(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            entered, left = trio.Event(), trio.Event()

            async def outgoing(*_: Any) -> None:
                entered.set()
                try:
                    await trio.sleep_forever()
                finally:
                    left.set()

            rig.outgoing = outgoing
            running = await rig.ready(
                """
                import trio
                from solo_trio import service
                async def main(ctx):
                    async with trio.open_nursery() as nursery:
                        global scope
                        scope = nursery.cancel_scope
                        nursery.start_soon(ctx.call, "other", "f")
                    await trio.sleep_forever()
                @service.export
                async def give_up():
                    scope.cancel()
                """
            )
            await entered.wait()
            await running.call("give_up", [], {})
            await left.wait()
            assert not running.ended.is_set()

    # -- whose calls they are

    async def test_what_is_asked_in_a_call_is_asked_for_its_caller(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            rig.outgoing = _nothing
            running = await rig.ready(ASKS)
            one, other = mandate_of("one"), mandate_of("other")
            for mandate in (one, other):
                for function in ("ask", "ask_in_thread", "ask_below"):
                    await running.call(function, [], {}, mandate)
                    assert rig.mandates.pop() is mandate and not rig.mandates
            await running.call("ask_by_itself", [], {}, one)
            assert rig.mandates.pop() is None, "what it does by itself is nobody else's"
            for how in ("thread", "system task"):
                found = await running.call("ask_where_it_is_forgotten", [how, False], {}, one)
                assert found == [["permission_denied", True]] and not rig.mandates, "it does not become the service"
                await running.call("ask_where_it_is_forgotten", [how, True], {}, one)
                assert rig.mandates.pop() is None
            await running.call("ask", [], {})
            assert rig.mandates.pop() is NOBODYS, "who says nothing may nothing"

    async def test_calls_at_the_same_time_are_not_mixed_up(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            waiting: dict[str, trio.Event] = {str(number): trio.Event() for number in range(8)}

            async def outgoing(service_id: str, function: str, *_: Any) -> Any:
                reached.add(function)
                await waiting[function].wait()

            reached: set[str] = set()
            rig.outgoing = outgoing
            running = await rig.ready(ASKS)
            async with trio.open_nursery() as nursery:
                for name in waiting:
                    nursery.start_soon(running.call, "ask", [name], {}, mandate_of(name))
                while len(reached) < len(waiting):  # noqa: ASYNC110 - bounded by the rig
                    await trio.sleep(0.001)
                for event in waiting.values():
                    event.set()
            asked = [function for _, function, *_ in rig.asked]
            assert [each.authority.capability_id for each in rig.mandates if each and each.authority] == asked

    async def test_main_asks_by_itself_also_when_a_call_began_what_it_does(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            rig.outgoing = _nothing
            running = await rig.start(
                """
                from solo_trio import service
                async def main(ctx):
                    assert service.caller() is None and ctx.caller is None
                    await ctx.call("other", "f")
                """
            )
            await rig.ending(running)
            assert running.ending is not None and running.ending.kind == "completed", running.ending
            assert rig.mandates == [None]

    async def test_what_outlives_a_call_may_no_longer_ask_for_it(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            begin = trio.Event()

            async def outgoing(service_id: str, function: str, *_: Any) -> Any:
                await begin.wait()

            rig.outgoing = outgoing
            running = await rig.ready(ASKS)
            await running.call("leave_behind", ["begin"], {}, mandate_of("one"))
            begin.set()
            fields = (await rig.line("refused"))[3]
            assert fields == {"code": "permission_denied", "of_caller": "<Caller one>"}
            assert [asked[0] for asked in rig.asked] == ["gate"] and not running.ended.is_set()

    async def test_a_call_that_was_given_up_is_worth_nothing(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            held, gate = trio.Event(), trio.Event()

            async def outgoing(service_id: str, function: str, *_: Any) -> Any:
                held.set()
                await gate.wait()

            rig.outgoing = outgoing
            running = await rig.ready(ASKS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(running.call, "hold", [], {}, mandate_of("one"))
                await held.wait()
                nursery.cancel_scope.cancel()
            gate.set()
            assert (await rig.line("refused"))[3] == {"code": "permission_denied"}
            assert [asked[0] for asked in rig.asked] == ["gate"]

    async def test_who_calls(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(ASKS)
            narrowed = mandate_of("one", "service = calc", "permissions = call")
            assert narrowed.authority is not None
            names = list(narrowed.authority.caveats.ids)
            for mandate, told in (
                (mandate_of("one"), ["credential", "tenant", "one", [], [], None]),
                (narrowed, ["credential", "tenant", "one", names, [], None]),
                (narrowed.through("a", 1).through("b", 2), ["credential", "tenant", "one", names, ["a", "b"], "b"]),
                (Mandate.of(Authority()), ["application", None, None, [], [], None]),
                (Mandate.of_service("tenant", "a", 1), ["service", "tenant", None, [], ["a"], "a"]),
            ):
                assert await running.call("who", [], {}, mandate) == told

    async def test_what_a_caller_may_is_asked_of_the_kernel(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = await rig.ready(ASKS)
            one = mandate_of("one")
            assert await running.call("may", ["read", "secret:x"], {}, one) is True
            assert await running.call("may", ["write", "secret:x"], {}, one) is False
            assert await running.call("may", ["read", "secret:x"], {}, Mandate.of_service("tenant", "a", 1)) is False
            assert await running.call("may", ["read", "nonsense"], {}, one) == "invalid_field"
            assert rig.rights[0] == (one, "secret:x", "read")
            await running.call("demand", ["read", "secret:x"], {}, one)
            with pytest.raises(Faulted) as caught:
                await running.call("demand", ["write", "secret:x"], {}, one)
            assert caught.value.code == "call_failed" and "permission_denied" in caught.value.detail
            with pytest.raises(Faulted, match="TypeError"):
                await running.call("may", ["read", 5], {}, one)

    # -- the nursery

    async def test_cancelling_the_nursery_ends_it(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            async with trio.open_nursery() as nursery:
                running = await rig.ready(IDLE, nursery=nursery)
                nursery.cancel_scope.cancel()
            ending = await rig.ending(running)
            assert ending.kind in ("killed", "stopped")

    async def test_close_ends_everything(self, tmp_path: Path) -> None:
        async with self.rig(tmp_path) as rig:
            running = [await rig.ready(IDLE, service_id=f"s{number}") for number in range(3)]
            await rig.runtime.close(trio.current_time() + 10)
            assert [one.ended.is_set() for one in running] == [True] * 3
            assert {one.ending.kind for one in running if one.ending} == {"killed"}


async def _nothing(*_: Any) -> None:
    await trio.lowlevel.checkpoint()
