"""What a service sees of the file system. Owns: the list of it, and the root that is built from it. Never: writes outside it.

The Python that runs, its packages, the system's libraries, time zones, certificates, two devices: read-only, nothing else. No
/proc, no /sys, no /dev/shm.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from typing import Final

from solo_trio.runtimes.sandbox import system

SCRATCH: Final = "/scratch"
"""Each service's own directory, in memory."""
DEVICES: Final = ("/dev/null", "/dev/urandom")
_SYSTEM: Final = (
    "/lib",
    "/lib64",
    "/usr/lib64",
    f"/usr/lib/{sysconfig.get_config_var('MULTIARCH') or '-'}",
    "/usr/share/zoneinfo",
    "/usr/lib/ssl",
    "/etc/ssl",
    "/etc/pki/tls",
    "/etc/pki/ca-trust",
    "/usr/share/ca-certificates",
    "/etc/ld.so.cache",
)
_TEMPLATE: Final = "size=256k,nr_inodes=4096,mode=755"
_PROTECTED: Final = system.MOUNT_ATTR_RDONLY | system.MOUNT_ATTR_NOSUID
_EMPTY: Final = "size=4k,nr_inodes=2,mode=755"
_EXACT: Final = sysconfig.get_paths()


def places(package: str, paths: Iterable[str]) -> list[str]:
    """All of it that there is: directories and files, none inside another. `paths`: where packages come from."""
    python = [_EXACT[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    python.append(os.path.join(sys.base_prefix, "lib"))
    python += [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages", "lib-dynload")]
    wanted = [*python, package, *paths, *_SYSTEM, *DEVICES]
    there = sorted({os.path.abspath(path) for path in wanted if os.path.isabs(path) and os.path.exists(path)})
    found: list[str] = []
    for path in there:
        if not any(is_within(path, other) for other in found):
            found.append(path)
    return found


def is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def places_of(hidden: Iterable[str], shown: Iterable[str]) -> list[str]:
    """Under which paths what is `hidden` would be seen in what is `shown`, whatever links lead to either."""
    found: list[str] = []
    for path in shown:
        real = os.path.realpath(path)
        for each in map(os.path.realpath, hidden):
            if is_within(each, real):
                found.append(path + each[len(real.rstrip("/")) :])
    return found


def unreachable(found: Iterable[str]) -> list[str]:
    """Those that another user cannot get to or read."""
    return [path for path in found if not _is_public(path)]


def _is_public(path: str) -> bool:
    above = os.path.dirname(path)
    if os.path.isdir(path) and os.stat(path).st_mode & 0o005 != 0o005:
        return False
    while above != "/":
        if not os.stat(above).st_mode & 0o001:
            return False
        above = os.path.dirname(above)
    return True


def build(where: str, found: Iterable[str], hidden: Iterable[str]) -> None:
    """Make a new root on the directory `where` and change to it, in a mount namespace that is ours alone.

    What of `hidden` (the kernel's own data) is inside of something that is shown is covered by an empty directory.
    """
    shown = list(found)
    covered = places_of(hidden, shown)
    system.mount(None, "/", None, system.MS_REC | system.MS_PRIVATE)
    flags = system.MS_NOSUID | system.MS_NODEV | system.MS_NOEXEC
    # A path of two names (a symbolic link) is shown under the one that is asked for. Nothing is looked up in the old root
    # through the mount on `where`, so its sources are opened before.
    sources = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in shown}
    system.mount("tmpfs", where, "tmpfs", flags, _TEMPLATE)
    for path, source in sources.items():
        _show(f"/proc/self/fd/{source}", where + path, is_directory=os.path.isdir(f"/proc/self/fd/{source}"))
        os.close(source)
        protected = _PROTECTED if path in DEVICES else _PROTECTED | system.MOUNT_ATTR_NODEV
        system.restrict_mount(where + path, protected)
    for path in covered:
        if os.path.isdir(where + path):
            system.mount("tmpfs", where + path, "tmpfs", flags, _EMPTY)
            system.restrict_mount(where + path, _PROTECTED)
    os.mkdir(where + SCRATCH)
    system.change_root(where)
    _restrict_template()


def _show(source: str, target: str, *, is_directory: bool) -> None:
    if is_directory:
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    system.mount(source, target, None, system.MS_BIND | system.MS_REC)


def _restrict_template() -> None:
    # Not recursive: device files below stay usable. MS_REMOUNT of the one mount.
    remount = 32
    flags = remount | system.MS_BIND | 1 | system.MS_NOSUID | system.MS_NODEV | system.MS_NOEXEC
    system.mount(None, "/", None, flags)


def own_scratch(size_mb: float, owner: int) -> None:
    """A directory of its own for the process, which has a mount namespace of its own by then."""
    size = max(4_096, int(size_mb * 1024 * 1024))
    inodes = max(16, size // 16_384)
    flags = system.MS_NOSUID | system.MS_NODEV | system.MS_NOEXEC
    options = f"size={size},nr_inodes={inodes},mode=700,uid={owner},gid={owner}"
    system.mount("tmpfs", SCRATCH, "tmpfs", flags, options)
