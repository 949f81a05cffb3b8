"""`solo logs`: levels, following across a killed server, and nothing in a line that could steer a terminal."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from cli_rig import Child, Server, solo

NASTY = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\x7f\u202egnp.exe\u2066\u2028end\ufeff"
SPEAKER = """
from solo_trio import service

kept = []

@service.export
def say(text, level="info"):
    getattr(kept[0].log, level)(text, said=text)

async def main(ctx):
    import trio
    kept.append(ctx)
    ctx.log.info("life " + str(ctx.config["n"]))
    await trio.sleep_forever()
"""


def steers(text: str) -> bool:
    """Whether a terminal would do anything with `text` but show it."""
    return any(not character.isprintable() for character in text if character != "\n")


def said(*arguments: str | Path, data: Path) -> str:
    ran = solo(*arguments, "--data", data)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_followed_across_a_kill_with_levels_and_hostile_text(tmp_path: Path) -> None:
    data, source = tmp_path / "data", tmp_path / "speaker.py"
    source.write_text(SPEAKER)
    with Server(data) as server:
        said("deploy", source, "--id", "talk", "--config", '{"n": 1}', data=data)
        said("call", "talk", "say", json.dumps("quiet"), "--kw", 'level="debug"', data=data)
        said("call", "talk", "say", json.dumps(NASTY), "--kw", 'level="error"', data=data)
        human = said("logs", "talk", data=data)
        assert [line.split()[1] for line in human.splitlines()] == ["info", "debug", "error"]
        assert not steers(human) and "\\x1b[31mred" in human and "\\u202egnp" in human
        entries = json.loads(said("logs", "talk", "--json", data=data))["logs"]
        assert entries[-1]["message"] == NASTY == entries[-1]["fields"]["said"]
        assert not steers(said("logs", "talk", "--json", data=data))
        assert len(said("logs", "talk", "--level", "warning", data=data).splitlines()) == 1
        assert said("logs", "talk", "--level", "critical", data=data) == ""
        assert solo("logs", "talk", "--level", "loud", "--data", data).returncode == 2

        words = ("logs", "talk", "--follow", "--json", "--data", data)
        followers = [Child(*words, "--tail", "1"), Child(*words, "--level", "error")]
        try:
            for follower in followers:
                assert json.loads(follower.line())["message"] == NASTY
            server.process.kill()
            server.wait()
            followers[0].wait_error("server gone, trying again")
            with Server(data):  # on another port: they find it by the data directory
                said("call", "talk", "say", json.dumps("after the kill"), data=data)
                said("call", "talk", "say", json.dumps(NASTY), "--kw", 'level="error"', data=data)
                everything, errors = (json.loads(follower.line()) for follower in followers)
                assert (everything["message"], everything["generation"]) == ("life 1", 2), (
                    "nothing twice, nothing missed"
                )
                assert json.loads(followers[0].line())["message"] == "after the kill"
                assert json.loads(followers[0].line())["message"] == NASTY == errors["message"]
                assert errors["generation"] == 2
                for follower in followers:
                    follower.send(signal.SIGINT)
                    assert follower.wait() == 130
                    said_of_it = [line.partition(" (")[0].strip() for line in follower.errors.splitlines()]
                    assert said_of_it == ["server gone, trying again", "server back"]
        finally:
            for follower in followers:
                follower.close()
    assert solo("logs", "nobody", "--follow", "--data", data).returncode == 1
