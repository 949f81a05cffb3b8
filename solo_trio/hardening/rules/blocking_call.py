"""Rule `blocking_call`. Owns: calls in async functions that wait without letting others run. Never: plain functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from solo_trio.hardening.finding import Found, Level, Rule
from solo_trio.hardening.module import Module, Reference, names_in
from solo_trio.hardening.rules.mentions import errors, warnings

_OF_SOCKET: Final = ("create_connection", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo", "socket")
_OF_HTTP: Final = ("get", "post", "put", "patch", "delete", "head", "options", "request")
_NAMES: Final[dict[str, Level]] = {
    **errors(
        "time.sleep builtins.input urllib.request.urlopen urllib.request.urlretrieve urllib3 http.client.HTTPConnection"
        " http.client.HTTPSConnection ftplib smtplib poplib imaplib telnetlib socketserver http.server select.select"
        " select.poll signal.pause signal.sigwait os.wait os.waitpid queue.Queue queue.SimpleQueue threading.Event"
        " threading.Barrier threading.Condition _thread.allocate_lock psycopg2.connect pymysql.connect redis.Redis"
    ),
    **errors(" ".join(f"requests.{each}" for each in (*_OF_HTTP, "Session", "session"))),
    **errors(" ".join(f"httpx.{each}" for each in (*_OF_HTTP, "stream", "Client"))),
    **errors(" ".join(f"socket.{each}" for each in _OF_SOCKET)),
    **warnings(
        "builtins.open io.open codecs.open os.read os.write os.fsync shutil.copy shutil.copytree shutil.copyfile shutil.move"
        " shutil.rmtree shutil.make_archive shutil.unpack_archive sqlite3.connect os.walk gzip.open bz2.open lzma.open"
        " zipfile.ZipFile tarfile.open"
    ),
}
_KNOWN: Final = frozenset(_NAMES)
_REMEDIES: Final = {
    "time.sleep": "Write await trio.sleep(seconds).",
    "builtins.open": "Write await trio.open_file(...), or do it in a plain function through await trio.to_thread.run_sync.",
}


def _look(module: Module) -> Iterable[Found]:
    for reference in module.references:
        if reference.call is None or not reference.scope.asynchronous:
            continue
        name = names_in(reference.dotted, _KNOWN)
        if name is not None:
            yield _found(reference, name)


def _found(reference: Reference, name: str) -> Found:
    called = reference.dotted.removeprefix("builtins.")[:80]
    what = f"{called} blocks, in an async function"
    return Found(reference.node, _NAMES[name], what, remedy=_REMEDIES.get(name, ""))


BLOCKING_CALL: Final = Rule(
    id="blocking_call",
    levels=("error", "warning"),
    title="An async function blocks",
    why="All async functions of a service take turns in one thread: while this waits, none of its calls is answered.",
    remedy="Await Trio's own (trio.sleep, trio.open_file, httpx.AsyncClient), or await trio.to_thread.run_sync(function).",
    example=(
        "import time\n\n\nasync def main(ctx):\n    for number in range(10):\n"
        "        ctx.log.info('tick', number=number)\n        time.sleep(1)\n"
    ),
    better=(
        "import trio\n\n\nasync def main(ctx):\n    for number in range(10):\n"
        "        ctx.log.info('tick', number=number)\n        await trio.sleep(1)\n"
    ),
    look=_look,
)
