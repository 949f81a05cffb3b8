"""Rule `process_use`. Owns: processes and shells. Never: threads (`unseen_task`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from solo_trio.hardening.finding import Found, Rule
from solo_trio.hardening.module import Module
from solo_trio.hardening.rules.mentions import errors, mentions

_OF_OS: Final = (
    "system popen fork forkpty posix_spawn posix_spawnp startfile"
    " execl execle execlp execlpe execv execve execvp execvpe"
    " spawnl spawnle spawnlp spawnlpe spawnv spawnve spawnvp spawnvpe"
)
_NAMES: Final = errors(
    " ".join(f"os.{each} posix.{each}" for each in _OF_OS.split())
    + " subprocess _posixsubprocess pty popen2 commands pexpect ptyprocess sh plumbum"
    " multiprocessing.Process multiprocessing.Pool multiprocessing.Manager multiprocessing.get_context multiprocessing.pool"
    " multiprocessing.process multiprocessing.context multiprocessing.managers multiprocessing.shared_memory"
    " concurrent.futures.ProcessPoolExecutor concurrent.futures.process loky"
    " trio.run_process trio.Process trio.lowlevel.open_process anyio.run_process anyio.open_process anyio.to_process"
    " asyncio.create_subprocess_exec asyncio.create_subprocess_shell asyncio.subprocess"
)


def _look(module: Module) -> Iterable[Found]:
    return mentions(module, _NAMES, "{name} starts another process")


PROCESS_USE: Final = Rule(
    id="process_use",
    levels=("error",),
    title="Another process or a shell is started",
    why="A service is one process: the sandbox lets it start no other, so this fails when it is reached.",
    remedy="Do the work in Python: call another service for what is to run apart, trio.to_thread.run_sync for what blocks.",
    example='import os\n\n\ndef listing(path):\n    return os.popen("ls " + path).read()\n',
    better="import os\n\n\ndef listing(path):\n    return os.listdir(path)\n",
    look=_look,
)
