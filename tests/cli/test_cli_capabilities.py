"""`solo cap`: a token is read from standard input; one that stands on the command line is taken, and said to be seen."""

from __future__ import annotations

from pathlib import Path

from cli_rig import Server, solo

NOTE = "a token that stands on a command line can be read by others"


def test_a_token_on_the_command_line_is_remarked_upon(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def cap(*arguments: str, text: str | None = None, offline: bool = False) -> tuple[str, str]:
        done = solo("cap", *arguments, *([] if offline else ["--data", str(data)]), text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    with Server(data):
        token = cap("grant", "service:calc", "--permission", "call")[0]
        for offline, arguments in (
            (True, ["attenuate", "TOKEN", "--ttl", "5m"]),
            (True, ["inspect", "TOKEN"]),
            (False, ["verify", "TOKEN", "service:calc", "call"]),
        ):
            given = [token if each == "TOKEN" else each for each in arguments]
            read = ["-" if each == "TOKEN" else each for each in arguments]
            answer, said = cap(*given, offline=offline)
            assert answer and NOTE in said and token not in said
            answer, said = cap(*read, text=f"{token}\n", offline=offline)
            assert answer and said == ""
        narrow = cap("attenuate", "-", "--ttl", "5m", text=token, offline=True)[0]
        assert NOTE in cap("revoke", narrow)[1]
        assert cap("revoke", "-", text=token)[1] == ""
        other = cap("grant", "service:calc", "--permission", "call")[0]
        capability = cap("inspect", "-", text=other, offline=True)[0].split()[1]
        assert cap("revoke", capability) == (f"{capability} revoked", "")  # an id is no secret
