"""Logs: every stream, after crashes and deletes, filters and pages, floods, hostile bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import trio
from api_rig import BOUND_S, Api, Client, Frame, refused, running

from solo_trio.operations.settings import Settings

STREAM = {"Accept": "text/event-stream"}

SPEAKER = r"""
import logging, os, sys
from solo_trio import service

@service.export
def speak():
    print("from print")
    print("from stderr", file=sys.stderr)
    logging.getLogger("my.logger").warning("from %s", "logging")
    logging.getLogger("my.logger").debug("never shown")
    os.write(1, b"from the descriptor\n")

@service.export
def levels():
    for level in ("debug", "info", "warning", "error"):
        getattr(kept[0].log, level)(f"at {level}", level=level, number=1)

@service.export
def lines(count):
    for number in range(count):
        kept[0].log.info(f"line {number}", number=number)

@service.export
def say(text):
    print(text, end="\n", flush=True)
    kept[0].log.info(text, text=text)

@service.export
def raw(data):
    os.write(1, bytes(data) + b"\n")

@service.export
def log_oddly():
    kept[0].log.info(None, thing=object(), nan=float("nan"), set={1}, nested={"a": [1]}, surrogate="\ud800")
    try:
        1 / 0
    except ZeroDivisionError:
        kept[0].log.exception("caught")

@service.export
def flood(count):
    for number in range(count):
        print("flood", number, "x" * 200)

@service.export
def log_big(start, size):
    kept[0].log.info(start + " " + "x" * size)

@service.export
def crash():
    print("last words")
    os._exit(1)

kept = []
async def main(ctx):
    kept.append(ctx)
    import trio
    await trio.sleep_forever()
"""


def messages(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["message"] for entry in entries]


async def test_every_stream(tenant: Client) -> None:
    await tenant.deploy("talk", SPEAKER)
    await tenant.call("talk", "speak")
    await tenant.wait_log("from print")
    await tenant.wait_log("from stderr")
    entries = {entry["message"]: entry for entry in await tenant.wait_log("from the descriptor")}
    assert entries.keys() == {"from print", "from stderr", "from logging", "from the descriptor"}
    assert {message: (entry["stream"], entry["level"]) for message, entry in entries.items()} == {
        "from print": ("stdout", "info"),
        "from stderr": ("stderr", "warning"),
        "from logging": ("log", "warning"),
        "from the descriptor": ("stdout", "info"),
    }
    assert entries["from logging"]["fields"] == {"logger": "my.logger"}


async def test_level_is_the_lowest_shown(tenant: Client) -> None:
    await tenant.deploy("talk", SPEAKER)
    await tenant.call("talk", "levels")
    every = ["at debug", "at info", "at warning", "at error"]
    assert messages(await tenant.logs()) == every
    for position, level in enumerate(("debug", "info", "warning", "error")):
        assert messages(await tenant.logs(level=level)) == every[position:]
    assert await tenant.logs(level="critical") == []
    [entry] = await tenant.logs(level="error")
    assert entry["fields"] == {"level": "error", "number": 1}


async def test_pages_and_tails(tenant: Client) -> None:
    await tenant.deploy("talk", SPEAKER)
    await tenant.call("talk", "lines", 25)
    whole = await tenant.logs(service_id="talk")
    assert messages(whole) == [f"line {number}" for number in range(25)]
    assert [entry["id"] for entry in whole] == sorted({entry["id"] for entry in whole})
    for limit in (1, 7, 25, 26):
        found: list[dict[str, Any]] = []
        since: int | None = 0
        while since is not None:
            page = await tenant.ok("GET", "/logs", params={"limit": limit, "since": since})
            assert len(page["logs"]) <= limit
            found += page["logs"]
            since = page["next"]
        assert found == whole
    assert await tenant.logs(tail=3) == whole[-3:]
    assert await tenant.logs(tail=1000) == whole
    assert await tenant.logs(since=whole[20]["id"], tail=2) == whole[-2:]
    assert await tenant.logs(since=whole[-1]["id"]) == []


async def test_after_a_crash_and_after_a_delete(tenant: Client) -> None:
    await tenant.deploy("talk", SPEAKER)
    refused(await tenant.try_call("talk", "crash"), "call_interrupted")
    await tenant.wait_event("service_crashed", "talk")
    [entry] = await tenant.logs(service_id="talk")
    assert entry["message"] == "last words" and entry["generation"] == 1
    await tenant.call("talk", "say", "second life")
    entries = await tenant.wait_log("second life")
    assert entries[-1]["generation"] == 2
    await tenant.ok("DELETE", "/services/talk")
    entries = await tenant.logs(service_id="talk")
    assert messages(entries)[0] == "last words" and "second life" in messages(entries)
    assert await tenant.logs(service_id="never-was") == []


async def test_one_services_log_is_not_in_anothers(api: Api, tenant: Client) -> None:
    other = await api.tenant("t2")
    for client, service_id in ((tenant, "talk"), (tenant, "talk-2"), (other, "talk")):
        await client.deploy(service_id, SPEAKER)
        await client.call(service_id, "say", f"{client.tenant_id}/{service_id}")
        await client.wait_log(f"{client.tenant_id}/{service_id}")
    assert set(messages(await tenant.logs(service_id="talk"))) == {"t1/talk"}
    assert set(messages(await tenant.logs(service_id="talk-2"))) == {"t1/talk-2"}
    assert set(messages(await tenant.logs())) == {"t1/talk", "t1/talk-2"}
    assert set(messages(await other.logs())) == {"t2/talk"}


async def test_control_characters_survive_as_escapes(tenant: Client) -> None:
    await tenant.deploy("talk", SPEAKER)
    nasty = "".join(map(chr, range(1, 10))) + "\x1b[31mred\x1b[0m\x7f\x9b\u202e\u2028\ufeff</script>\r{}"
    await tenant.call("talk", "say", nasty)
    await tenant.wait_log("red", service_id="talk")
    with trio.fail_after(BOUND_S):
        while {entry["stream"] for entry in await tenant.logs()} != {"stdout", "log"}:
            pass
    response = await tenant.get("/logs")
    assert not any(byte < 0x20 for byte in response.content), "only as escapes"
    logged, printed = sorted(response.json()["logs"], key=lambda entry: entry["stream"])
    assert logged["message"] == nasty and logged["fields"] == {"text": nasty}
    assert printed["message"] == nasty


async def test_bytes_that_are_no_text(tenant: Client) -> None:
    await tenant.deploy("talk", SPEAKER)
    await tenant.call("talk", "raw", [0, 255, 254, 0xED, 0xA0, 0x80, 0x41])
    [entry] = await tenant.wait_log("A")
    assert entry["message"].startswith("\0\ufffd\ufffd")
    await tenant.call("talk", "raw", [])
    await tenant.call("talk", "raw", [0x42] * 20_000)
    with trio.fail_after(BOUND_S):
        while sum(entry["message"].count("B") for entry in await tenant.logs()) < 20_000:
            pass
    assert max(len(entry["message"]) for entry in await tenant.logs()) <= 8_192


async def test_fields_that_are_not_json(tenant: Client) -> None:
    await tenant.deploy("talk", SPEAKER)
    await tenant.call("talk", "log_oddly")
    odd, caught = await tenant.logs()
    assert odd["message"] == "None" and odd["fields"]["nested"] == {"a": [1]}
    assert (
        odd["fields"]["nan"] == "nan" and odd["fields"]["thing"].startswith("<object") and odd["fields"]["set"] == "{1}"
    )
    assert caught["level"] == "error" and "ZeroDivisionError" in caught["fields"]["traceback"]


async def test_a_flood_is_bounded_and_counted(api: Api, tenant: Client) -> None:
    await tenant.deploy("quiet", SPEAKER)
    await tenant.deploy("talk", SPEAKER, limits={"log_bytes_per_s": 4096})
    written = 20_000
    await tenant.call("talk", "flood", written)
    await tenant.call("quiet", "say", "can still speak")
    await tenant.wait_log("can still speak", service_id="quiet")
    kept = dropped = 0
    with trio.fail_after(BOUND_S):  # the count is told although no line follows
        while kept + dropped < written:
            entries = await tenant.logs(service_id="talk")
            kept = sum(entry["message"].startswith("flood") for entry in entries)
            dropped = sum(entry["fields"].get("dropped", 0) for entry in entries)
    assert 0 < kept < written // 10
    assert sum(len(json.dumps(entry)) for entry in entries) < 200_000
    assert {entry["level"] for entry in entries if "dropped" in entry["fields"]} == {"warning"}
    for query, count in (("?service_id=talk", dropped), ("?service_id=quiet", 0), ("", dropped)):
        assert (await tenant.ok("GET", f"/logs{query}"))["dropped_lines"] == count


async def test_lines_of_many_services_are_in_order(tenant: Client) -> None:
    for service_id in ("a", "b"):
        await tenant.deploy(service_id, SPEAKER)
    for number in range(6):
        await tenant.call("ab"[number % 2], "lines", 2)
    entries = await tenant.logs()
    assert [entry["service_id"] for entry in entries] == ["a", "a", "b", "b"] * 3
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)


# -- following


async def test_followed_from_now_and_from_a_tail(tenant: Client) -> None:
    await tenant.deploy("talk", SPEAKER)
    await tenant.call("talk", "lines", 10)
    whole = await tenant.logs()
    async with tenant.stream(path="/logs") as now, tenant.stream(path="/logs", tail=3) as tail:
        assert [frame.json for frame in await tail.take(3)] == whole[-3:]
        await tenant.call("talk", "say", "new")
        await tenant.wait_log("new")
        both = [await now.take(2), await tail.take(2)]
        for frames in both:
            assert [frame.json for frame in frames] == (await tenant.logs())[-2:]
            assert all(frame.event == "log" and frame.id == frame.json["id"] for frame in frames)
    async with tenant.stream(path="/logs", since=0) as frames:
        assert [frame.json for frame in await frames.take(12)] == await tenant.logs()


async def test_followed_with_filters(api: Api, tenant: Client) -> None:
    other = await api.tenant("t2")
    for client, service_id in ((tenant, "talk"), (tenant, "else"), (other, "talk")):
        await client.deploy(service_id, SPEAKER)
    async with (
        tenant.stream(path="/logs", level="warning", service_id="talk") as mine,
        tenant.stream(path="/logs", level="error") as both,
    ):
        for client, service_id in ((other, "talk"), (tenant, "else"), (tenant, "talk")):
            await client.call(service_id, "levels")
        assert [frame.json["message"] for frame in await mine.take(2)] == ["at warning", "at error"]
        assert [frame.json["service_id"] for frame in await both.take(2)] == ["else", "talk"]


async def test_last_event_id_resumes_a_log_and_no_line_is_missed(tenant: Client) -> None:
    """Broken off after every few lines, while three services write."""
    names, each = ("a", "b", "c"), 40
    for service_id in names:
        await tenant.deploy(service_id, SPEAKER)
    seen: list[dict[str, Any]] = []
    async with trio.open_nursery() as nursery:

        async def write(service_id: str) -> None:
            for _ in range(each // 10):
                await tenant.call(service_id, "lines", 10)

        for service_id in names:
            nursery.start_soon(write, service_id)
        while len(seen) < len(names) * each:
            headers = {"Last-Event-ID": str(seen[-1]["id"])} if seen else {}
            async with tenant.stream(path="/logs", since=0, headers=headers) as frames:
                seen += [frame.json for frame in await frames.take(min(7, len(names) * each - len(seen)))]
    assert seen == await tenant.logs()
    refused(await tenant.get("/logs", headers=STREAM | {"Last-Event-ID": "x"}), "invalid_field")
    for query in ("since=-1", "tail=0", "tail=1001", "level=loud", "service_id=../x", "limit=1", "since_id=1"):
        assert (await tenant.get(f"/logs?{query}", headers=STREAM)).status_code == 400


async def test_big_entries_arrive_one_by_one(tenant: Client) -> None:
    await tenant.deploy("talk", SPEAKER)
    async with tenant.stream(path="/logs") as frames:
        for number in range(30):
            await tenant.call("talk", "log_big", f"{number}", 30_000)
        found = [frame.json["message"].split()[0] for frame in await frames.take(30)]
    assert found == [f"{number}" for number in range(30)]


async def test_followers_end_with_the_kernel_and_count_as_streams(tmp_path: Path) -> None:
    ends: list[Frame] = []
    async with trio.open_nursery() as nursery, running(tmp_path / "data", Settings(max_streams_per_tenant=2)) as api:
        tenant = await api.tenant("t1")
        await tenant.deploy("talk", SPEAKER)

        async def follow(task_status: trio.TaskStatus[None]) -> None:
            async with tenant.stream(path="/logs") as frames:
                task_status.started()
                ends.extend([frame async for frame in frames][-1:])

        await nursery.start(follow)
        async with tenant.stream():
            refused(await tenant.get("/logs", headers=STREAM), "overloaded")
            refused(await (await api.client(None)).get("/logs", headers=STREAM), "unauthenticated")
            refused(await api.admin.get("/logs", headers=STREAM), "tenant_required")
    assert [(end.event, end.json) for end in ends] == [("end", {"reason": "shutdown"})]
