"""Watch events over a WebSocket, each exactly once, across restarts of this program and of the server.

    python examples/watcher.py URL TOKEN_FILE PLACE_FILE [COUNT]

Prints one line for each event. The id of the last one that was dealt with is kept in PLACE_FILE: run it again, and it goes on
behind that event. With COUNT it ends after so many.

"Exactly once" has two halves. The server sends every event after `since_id`, in order, without gaps. Here the event and its
id are dealt with together: first the work, then the place, in one atomic step where the work has one (a database's
transaction, say). This program's work is a line on standard output, so a crash between the two repeats at most that one line.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, open_websocket_url

RECONNECT_S = 0.2
RECONNECT_S_MAX = 5.0


def read_place(path: Path) -> int:
    return int(path.read_text()) if path.exists() else 0


def write_place(path: Path, last_id: int) -> None:
    """Whole or not at all, whatever happens meanwhile."""
    new = path.with_suffix(".new")
    with new.open("w") as file:
        file.write(str(last_id))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


async def watch(url: str, token: str, place: Path, count: int | None) -> None:
    last_id = read_place(place)
    done = 0
    wait_s = RECONNECT_S
    while True:
        address = f"{url.replace('http', 'ws', 1)}/events/watch?since_id={last_id}"
        try:
            async with open_websocket_url(
                address, extra_headers=[("Authorization", f"Bearer {token}")], connect_timeout=5, disconnect_timeout=1
            ) as socket:
                while True:
                    frame = json.loads(await socket.get_message())
                    wait_s = RECONNECT_S
                    if "event" in frame:
                        event = frame["event"]
                        if event["id"] <= last_id:
                            continue
                        print(event["id"], event["type"], event["subject"] or "-", flush=True)  # the work
                        last_id = event["id"]
                        write_place(place, last_id)
                        done += 1
                        if done == count:
                            return
                    elif "bookmark" in frame:  # nothing up to here is for us: a later start need not look at it again
                        last_id = max(last_id, frame["bookmark"])
                        write_place(place, last_id)
                    elif "compacted" in frame:
                        print("lost: the log begins with", frame["compacted"]["oldest_id"], file=sys.stderr)
                    elif "end" in frame:
                        print("the server ends the stream:", frame["end"]["reason"], file=sys.stderr)
        except ConnectionRejected as refused:
            if refused.status_code not in (429, 503):  # a wrong token stays wrong
                raise SystemExit(f"refused: {refused.status_code} {(refused.body or b'').decode()}") from None
        except (ConnectionClosed, HandshakeError, OSError) as error:
            print(f"not connected ({type(error).__name__}); again in {wait_s:g} s", file=sys.stderr)
        await trio.sleep(wait_s)
        wait_s = min(wait_s * 2, RECONNECT_S_MAX)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    token_ = Path(sys.argv[2]).read_text().strip()
    with suppress(KeyboardInterrupt):
        trio.run(watch, sys.argv[1], token_, Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) == 5 else None)
