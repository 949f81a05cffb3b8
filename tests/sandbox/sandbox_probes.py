"""A service that tries to get out. Owns: one function for each thing that must fail inside. Never: judges.

Each probe raises (`OSError`, or `Denied` where no errno says it) or returns what it got. Where the sandbox lets it fork, each
runs in a child, so that what it changes is gone with it. Signals are always 0 and resources of its own are removed: a probe
that gets through harms nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import mmap
import os
import platform
import posix
import pty  # noqa: F401 - so that what it needs is loaded while files can be read
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from solo_trio import service

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
LIBC.mmap.restype = ctypes.c_void_p
LIBC.getenv.restype = ctypes.c_char_p
GIVEN: dict[str, Any] = {}
"""From the config: paths and numbers outside that the test made."""
PROBES: dict[str, Callable[[], Any]] = {}
ARM = platform.machine() == "aarch64"
ANSWER_BYTES = 4_096
SIGCHLD = 17
PAGE = 4_096
SCANNED = 2 * 1024 * 1024

# name: (x86_64, aarch64)
NUMBERS = {
    "add_key": (248, 217),
    "bind": (49, 200),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "fsopen": (430, 430),
    "inotify_init1": (294, 26),
    "getsockopt": (55, 209),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "landlock_create_ruleset": (444, 444),
    "linkat": (265, 37),
    "listen": (50, 201),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mknodat": (259, 33),
    "mlock": (149, 228),
    "mount": (165, 40),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "pkey_mprotect": (329, 288),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "sched_setaffinity": (203, 122),
    "seccomp": (317, 277),
    "semget": (64, 190),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setresuid": (117, 147),
    "setxattr": (188, 5),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapon": (167, 224),
    "symlinkat": (266, 36),
    "tgkill": (234, 131),
    "timer_create": (222, 107),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vmsplice": (278, 75),
}


class Denied(Exception):
    """It did not work, and no errno says so."""


def probe(function: Callable[[], Any]) -> Callable[[], Any]:
    PROBES[function.__name__] = function
    return function


def call(name: str, *arguments: Any) -> int:
    return number(NUMBERS[name][ARM], *arguments)


def number(which: int, *arguments: Any) -> int:
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    given += [ctypes.c_long(0)] * (6 - len(given))
    result = LIBC.syscall(ctypes.c_long(which), *given)
    if result < 0:
        found = ctypes.get_errno()
        raise OSError(found, os.strerror(found), str(which))
    return int(result)


def is_own_child(pid: int) -> int:
    """In the child: end at once. In the parent: wait for it."""
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


# -- processes


@probe
def os_system() -> int:
    code = os.system("true")
    if code != 0:
        raise Denied(f"exit status {code}")
    return code


@probe
def subprocess_run() -> int:
    return subprocess.run([sys.executable or "/bin/true", "-c", "pass"], check=False).returncode


@probe
def posix_spawn() -> int:
    return is_own_child(posix.posix_spawn("/bin/true", ["true"], {}))


@probe
def fork() -> int:
    return is_own_child(os.fork())


@probe
def fork_pty() -> int:
    return is_own_child(os.forkpty()[0])


@probe
def clone_of_a_process() -> int:
    return is_own_child(call("clone", SIGCHLD))


@probe
def clone_that_shares_memory() -> int:
    """VM alone is not a thread: it would be a process that the filter's own pid is not."""
    if not has_filter():
        raise Denied("its child would use this one's stack")
    return call("clone", 0x00000100 | 0x00004000 | SIGCHLD, 0)


@probe
def clone_with_a_user_namespace() -> int:
    return is_own_child(call("clone", 0x10000000 | SIGCHLD))


@probe
def clone_of_a_thread_in_a_namespace() -> int:
    return call("clone", 0x00010000 | 0x00000100 | 0x00000800 | 0x20000000, 0)


@probe
def clone3() -> int:
    arguments = ctypes.create_string_buffer(struct.pack("=8Q", 0, 0, 0, 0, SIGCHLD, 0, 0, 0), 64)
    return is_own_child(call("clone3", arguments, 64))


@probe
def execute() -> None:
    os.execv("/bin/true", ["true"])


@probe
def execute_python() -> None:
    os.execv(GIVEN["python"], ["python", "-c", "pass"])


@probe
def execute_by_descriptor() -> None:
    place = os.open(GIVEN["python"], os.O_PATH)
    empty = (ctypes.c_char_p * 1)(None)
    call("execveat", place, b"", empty, empty, 0x1000)


@probe
def process_that_traces() -> int:
    return call("ptrace", 0)  # PTRACE_TRACEME


@probe
def trace_of_a_sibling() -> int:
    call("ptrace", 0x4206, GIVEN["sibling_pid"], 0, 0)  # PTRACE_SEIZE: does not stop it
    return 1


@probe
def memory_of_a_sibling_read() -> int:
    return process_memory("process_vm_readv", GIVEN["sibling_pid"])


@probe
def memory_of_itself_written() -> int:
    return process_memory("process_vm_writev", os.getpid())


def process_memory(name: str, pid: int) -> int:
    here = ctypes.create_string_buffer(16)
    there = ctypes.addressof(LIBC_BYTES)
    local = struct.pack("=QQ", ctypes.addressof(here), 16)
    return call(name, pid, local, 1, struct.pack("=QQ", there, 16), 1)


LIBC_BYTES = ctypes.create_string_buffer(16)


@probe
def pidfd_of_a_sibling() -> int:
    return call("pidfd_open", GIVEN["sibling_pid"])


@probe
def pidfd_of_the_kernel() -> int:
    """By the socket that it made."""
    buffer, length = ctypes.create_string_buffer(4), ctypes.create_string_buffer(struct.pack("=I", 4), 4)
    call("getsockopt", 3, socket.SOL_SOCKET, 77, buffer, length)
    return int(struct.unpack("=i", buffer.raw)[0])


@probe
def descriptor_of_another_process() -> int:
    return call("pidfd_getfd", call("pidfd_open", GIVEN["sibling_pid"]), 3)


@probe
def comparing_processes() -> int:
    call("kcmp", os.getpid(), GIVEN["sibling_pid"], 0, 0, 0)
    return 1


# -- the machine


@probe
def mount_tmpfs() -> int:
    return mounted("tmpfs")


@probe
def mount_proc() -> int:
    return mounted("proc")


def mounted(kind: str) -> int:
    with directory() as place:
        found = call("mount", kind.encode(), place.encode(), kind.encode(), 0, 0)
        call("umount2", place.encode(), 2)
        return found


@probe
def mount_made_writable() -> int:
    return call("mount", 0, b"/", 0, 32 | 4096, 0)


@probe
def unmount() -> int:
    return call("umount2", GIVEN["mounted_too"].encode(), 2)


@probe
def root_changed() -> int:
    return call("chroot", b"/")


@probe
def root_pivoted() -> int:
    with contextlib.suppress(OSError):  # where it may, or `/` could not be left behind
        call("unshare", 0x00020000)
    return call("pivot_root", GIVEN["mounted"].encode(), GIVEN["mounted"].encode())


@probe
def tree_opened() -> int:
    return call("open_tree", -100, b"/", 1)


@probe
def file_system_opened() -> int:
    return call("fsopen", b"tmpfs", 0)


@probe
def unshare_user() -> int:
    return call("unshare", 0x10000000)


@probe
def unshare_mounts() -> int:
    return call("unshare", 0x00020000)


@probe
def unshare_pids() -> int:
    return call("unshare", 0x20000000)


@probe
def unshare_network() -> int:
    return call("unshare", 0x40000000)


@probe
def enter_a_namespace() -> int:
    return call("setns", call("pidfd_open", os.getpid()), 0x04000000)


@probe
def enter_a_namespace_of_another() -> int:
    return call("setns", os.open("/proc/1/ns/uts", os.O_RDONLY), 0)


@probe
def bpf() -> int:
    return call("bpf", 0, ctypes.create_string_buffer(struct.pack("=IIIII", 2, 4, 8, 1, 0), 128), 128)


@probe
def keyring() -> int:
    return call("keyctl", 0, -3, 1)


@probe
def key_added() -> int:
    return call("add_key", b"user", b"solo", b"x", 1, -2)


@probe
def key_requested() -> int:
    return call("request_key", b"user", b"solo", 0, -2)


@probe
def user_fault() -> int:
    return call("userfaultfd", 1)


@probe
def io_ring() -> int:
    return call("io_uring_setup", 1, ctypes.create_string_buffer(120))


@probe
def performance_counter() -> int:
    described = ctypes.create_string_buffer(struct.pack("=IIQ", 1, 112, 0), 112)
    return call("perf_event_open", described, 0, -1, -1, 0)


@probe
def file_in_memory() -> int:
    return call("memfd_create", b"x", 0)


@probe
def secret_memory() -> int:
    return call("memfd_secret", 0)


@probe
def personality() -> int:
    return call("personality", 0x0400000)  # READ_IMPLIES_EXEC


@probe
def host_name() -> int:
    name = os.uname().nodename.encode()
    return call("sethostname", name, len(name))


@probe
def watching_the_whole_file_system() -> int:
    return call("fanotify_init", 0, 0)


@probe
def watching_files() -> int:
    return call("inotify_init1", 0)


@probe
def file_handle() -> int:
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136)
    return call("name_to_handle_at", -100, b"/", handle, ctypes.create_string_buffer(4), 0)


@probe
def processor_chosen() -> None:
    os.sched_setaffinity(0, {0})


@probe
def timer() -> int:
    return call("timer_create", 1, 0, ctypes.create_string_buffer(8))


@probe
def another_filter() -> int:
    allow = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000), 8)
    LIBC.prctl(38, 1, 0, 0, 0)
    return call("seccomp", 1, 0, ctypes.create_string_buffer(struct.pack("=H6xQ", 1, ctypes.addressof(allow)), 16))


@probe
def another_landlock() -> int:
    return call("landlock_create_ruleset", 0, 0, 1)


@probe
def prctl_dumpable() -> int:
    return call("prctl", 4, 1)


@probe
def prctl_parent_death() -> int:
    return call("prctl", 1, 0)


@probe
def prctl_subreaper() -> int:
    return call("prctl", 36, 1)


@probe
def pages_given_to_a_pipe() -> int:
    described = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(LIBC_BYTES), 16), 16)
    return call("vmsplice", os.pipe()[1], described, 1, 0)


# -- sockets: by system calls, as what Python has may be replaced by what asks the kernel


STREAM, DGRAM, RAW, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET


def open_socket(family: int, *kinds: int) -> int:
    failure: OSError | None = None
    for kind in kinds:
        try:
            return call("socket", family, kind, 0)
        except OSError as error:
            failure = error
    assert failure is not None
    raise failure


def socket_of(name: str, family: int, *kinds: int) -> None:
    PROBES[f"socket_{name}"] = lambda: open_socket(family, *kinds)


socket_of("inet", socket.AF_INET, STREAM, DGRAM)
socket_of("inet_raw", socket.AF_INET, RAW)
socket_of("inet6", socket.AF_INET6, STREAM, DGRAM)
socket_of("unix", socket.AF_UNIX, STREAM, DGRAM, SEQPACKET)
socket_of("netlink", socket.AF_NETLINK, RAW, DGRAM)
socket_of("packet", socket.AF_PACKET, RAW, DGRAM)
socket_of("vsock", socket.AF_VSOCK, STREAM, DGRAM)
socket_of("alg", socket.AF_ALG, SEQPACKET)


@probe
def socket_of_any_family() -> list[int]:
    found = []
    for family in range(64):
        with contextlib.suppress(OSError):
            os.close(open_socket(family, STREAM, DGRAM, RAW, 4, SEQPACKET))
            found.append(family)
    if not found:
        raise Denied("none")
    return found


def pair(kind: int) -> int:
    two = ctypes.create_string_buffer(8)
    call("socketpair", socket.AF_UNIX, kind, 0, two)
    return int(struct.unpack("=ii", two.raw)[0])


@probe
def pair_of_datagram_sockets() -> int:
    return pair(DGRAM)


@probe
def pair_of_packet_sockets() -> int:
    return pair(SEQPACKET)


@probe
def pair_of_netlink_sockets() -> int:
    return call("socketpair", socket.AF_NETLINK, RAW, 0, ctypes.create_string_buffer(8))


def socket_or_pair(family: int, kind: int) -> int:
    """The best there is: where no socket can be made, one end of a pair, which then may be aimed at something else."""
    for attempt in (lambda: call("socket", family, kind, 0), lambda: pair(kind), lambda: pair(STREAM)):
        with contextlib.suppress(OSError):
            return attempt()
    raise Denied("no socket of any kind")


def of_this_machine() -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4B8x", GIVEN["port"], 127, 0, 0, 1)


def of_a_path(path: str) -> bytes:
    return struct.pack("=H", socket.AF_UNIX) + path.encode() + bytes(not path.startswith("\0"))


@probe
def connection_to_this_machine() -> int:
    address = of_this_machine()
    return call("connect", socket_or_pair(socket.AF_INET, STREAM), address, len(address))


@probe
def connection_by_what_python_has() -> int:
    """Which is refused by the kernel, as it is in no list."""
    with socket.create_connection(("127.0.0.1", GIVEN["port"]), timeout=2) as found:
        return found.fileno()


@probe
def connection_by_fast_open() -> int:
    """The one way to connect that Landlock does not see."""
    address = of_this_machine()
    return call("sendto", socket_or_pair(socket.AF_INET, STREAM), b"x", 1, 0x20000000, address, len(address))


@probe
def connection_by_fast_open_in_a_message() -> int:
    address = ctypes.create_string_buffer(of_this_machine())
    text = ctypes.create_string_buffer(b"x")
    part = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(text), 1), 16)
    header = struct.pack("=QIIQQQQii", ctypes.addressof(address), 16, 0, ctypes.addressof(part), 1, 0, 0, 0, 0)
    return call("sendmsg", socket_or_pair(socket.AF_INET, STREAM), header, 0x20000000)


@probe
def connection_to_a_path() -> int:
    address = of_a_path(GIVEN["socket"])
    return call("connect", socket_or_pair(socket.AF_UNIX, STREAM), address, len(address))


@probe
def connection_to_an_abstract_name() -> int:
    address = of_a_path("\0" + GIVEN["abstract"])
    return call("connect", socket_or_pair(socket.AF_UNIX, STREAM), address, len(address))


@probe
def datagram_to_a_path() -> int:
    address = of_a_path(GIVEN["datagrams"])
    return call("sendto", socket_or_pair(socket.AF_UNIX, DGRAM), b"x", 1, 0, address, len(address))


@probe
def datagram_to_this_machine() -> int:
    address = of_this_machine()
    return call("sendto", socket_or_pair(socket.AF_INET, DGRAM), b"x", 1, 0, address, len(address))


@probe
def own_socket_connected_elsewhere() -> int:
    """What it has to the kernel, aimed at something else, or made to be one to connect to."""
    address = of_a_path("\0" + GIVEN["abstract"])
    with contextlib.suppress(OSError):
        return call("connect", 3, address, len(address))
    address = of_a_path("\0" + GIVEN["abstract"] + "-own")
    return call("bind", 3, address, len(address))


@probe
def own_socket_disconnected() -> int:
    return call("connect", 3, bytes(16), 16)  # AF_UNSPEC


@probe
def own_socket_listening() -> int:
    return call("listen", pair(STREAM), 1)


@probe
def buffers_of_a_socket() -> int:
    """What it asks for is answered, and does nothing."""
    one, _ = socket.socketpair()
    before = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096 if before > 9000 else 1 << 17)
    after = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    if after == before:
        raise Denied("it is as large as before")
    return after


@probe
def other_options_of_a_socket() -> None:
    one, _ = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, 33, 4096)  # SO_RCVBUFFORCE
    one.setsockopt(socket.SOL_SOCKET, 26, b"")  # SO_ATTACH_FILTER


@probe
def owner_of_a_descriptor() -> int:
    """Whoever that is gets SIGIO."""
    import fcntl

    return fcntl.fcntl(socket.socketpair()[0], 8, GIVEN["sibling_pid"])


@probe
def size_of_a_pipe() -> int:
    import fcntl

    return fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)


# -- files


def reads(name: str, path: str) -> None:
    def attempt() -> int:
        place = path.format(**GIVEN)
        if os.path.isdir(place):
            return len(os.listdir(place))
        with open(place, "rb") as file:
            return len(file.read(100))

    PROBES[f"read_{name}"] = attempt


reads("shadow", "/etc/shadow")
reads("passwd", "/etc/passwd")
reads("database", "{data}/solo.db")
reads("database_through_its_descriptor", "/proc/{kernel_pid}/fd/{database_fd}")
reads("master_key", "{data}/master.key")
reads("data_directory", "{data}")
reads("hidden_file_in_what_is_shown", "{hidden}/file")
reads("file_of_root_in_what_is_shown", "{private}")
reads("own_status", "/proc/self/status")
reads("own_descriptors", "/proc/self/fd")
reads("environment_of_the_kernel", "/proc/{kernel_pid}/environ")
reads("environment_of_pid_1", "/proc/1/environ")
reads("memory_of_the_kernel", "/proc/{kernel_pid}/maps")
reads("root_of_a_sibling", "/proc/{sibling_pid}/root/scratch/sibling")
reads("root_of_the_machine", "/proc/1/root")
reads("processes", "/proc")
reads("system", "/sys")
reads("control_groups", "/sys/fs/cgroup")
reads("kernel_messages", "/dev/kmsg")
reads("shared_memory", "/dev/shm")
reads("programs", "/bin")
reads("up_and_out", "/lib/../../../../../../../../etc/passwd")
reads("python_up_and_out", f"{os.path.dirname(os.__file__)}/../../../../../../../../../../etc/passwd")
reads("scratch_of_a_sibling", "{scratch}/sibling")


@probe
def read_from_above_the_root() -> int:
    """A descriptor of the root, then `..` from it, as often as anybody likes."""
    place = os.open("/", os.O_RDONLY)
    for _ in range(8):
        place = os.open("..", os.O_RDONLY, dir_fd=place)
    return len(os.read(os.open("etc/passwd", os.O_RDONLY, dir_fd=place), 10))


@probe
def read_from_a_terminal() -> int:
    return os.open("/dev/tty", os.O_RDONLY) if os.path.exists("/dev/tty") else missing()


@probe
def read_memory_of_the_machine() -> int:
    return len(os.read(os.open("/dev/mem", os.O_RDONLY), 10))


def missing() -> int:
    raise FileNotFoundError(errno.ENOENT, "it is not there")


def knows(name: str, path: str) -> None:
    """Not what is in it, but that there is such a thing."""
    PROBES[f"know_{name}"] = lambda: stat.S_IFMT(os.stat(path.format(**GIVEN)).st_mode)


knows("of_passwd", "/etc/passwd")
knows("of_processes", "/proc/1")
knows("of_the_data_directory", "{data}")


@probe
def know_own_program() -> str:
    return os.readlink("/proc/self/exe")


@probe
def know_other_directories() -> None:
    os.chdir("/proc")


def own_place() -> str:
    """Where files can be made; without the sandbox as well as within."""
    for place in ("/scratch", "/tmp", "/var/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            return tempfile.mkdtemp(dir=place)
    raise Denied("no place to write to")


@contextlib.contextmanager
def directory() -> Any:
    place = own_place()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@probe
def symbolic_link_to_the_outside() -> int:
    with directory() as place:
        call("symlinkat", b"/etc/passwd", -100, f"{place}/link".encode())
        with open(f"{place}/link", "rb") as file:
            return len(file.read(10))


@probe
def symbolic_link() -> int:
    with directory() as place:
        return call("symlinkat", b"/scratch", -100, f"{place}/link".encode())


@probe
def hard_link() -> int:
    with directory() as place:
        os.close(os.open(f"{place}/file", os.O_CREAT | os.O_WRONLY))
        return call("linkat", -100, f"{place}/file".encode(), -100, f"{place}/link".encode(), 0)


def special_file(name: str, kind: int, device: int = 0) -> None:
    def attempt() -> int:
        with directory() as place:
            return call("mknodat", -100, f"{place}/special".encode(), kind | 0o600, device)

    PROBES[f"make_{name}"] = attempt


special_file("fifo", stat.S_IFIFO)
special_file("socket", stat.S_IFSOCK)
special_file("character_device", stat.S_IFCHR, os.makedev(1, 1))
special_file("block_device", stat.S_IFBLK, os.makedev(8, 0))


@probe
def set_user_id() -> int:
    """An own file that would run as its owner."""
    with directory() as place:
        os.close(os.open(f"{place}/file", os.O_CREAT | os.O_WRONLY))
        os.chmod(f"{place}/file", 0o4755)
        os.execv(f"{place}/file", ["x"])
        return 1


@probe
def extended_attribute() -> int:
    with directory() as place:
        return call("setxattr", place.encode(), b"user.x", b"x", 1, 0)


def writes(name: str, path: str) -> None:
    def attempt() -> int:
        place = path.format(**GIVEN)
        was_there = os.path.lexists(place)
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        if not was_there:
            os.unlink(place)
        return 1

    PROBES[f"write_{name}"] = attempt


writes("the_root", "/solo-probe")
writes("shared_memory", "/dev/shm/solo-probe")
writes("tmp", "/tmp/solo-probe")
writes("the_data_directory", "{data}/solo-probe")
writes("the_database", "{data}/solo.db")
writes("the_standard_library", f"{os.path.dirname(os.__file__)}/os.py")
writes("a_new_module", f"{os.path.dirname(os.__file__)}/solo_probe.py")
writes("a_package", f"{os.path.dirname(service.__file__)}/__init__.py")
writes("a_device", "/dev/urandom")


@probe
def mode_of_a_file_of_others() -> None:
    os.chmod(os.__file__, os.stat(os.__file__).st_mode & 0o777)


@probe
def times_of_a_file_of_others() -> None:
    found = os.stat(os.__file__)
    os.utime(os.__file__, ns=(found.st_atime_ns, found.st_mtime_ns))


@probe
def shortening_a_file_of_others() -> None:
    os.truncate(GIVEN["private"], 4096)


@probe
def shortening_the_database() -> None:
    os.truncate(f"{GIVEN['data']}/solo.db", 4096)


@probe
def renaming_the_database() -> None:
    os.rename(f"{GIVEN['data']}/solo.db", f"{GIVEN['data']}/renamed")
    os.rename(f"{GIVEN['data']}/renamed", f"{GIVEN['data']}/solo.db")


@probe
def mode_of_the_database() -> None:
    os.chmod(f"{GIVEN['data']}/solo.db", 0o600)


@probe
def times_of_the_database() -> None:
    os.utime(f"{GIVEN['data']}/solo.db", (1, 1))


@probe
def removing_a_directory_of_others() -> None:
    os.rmdir(GIVEN["empty"])
    os.mkdir(GIVEN["empty"])


@probe
def removing_a_file_of_others() -> None:
    os.unlink(f"{GIVEN['data']}/spare")
    os.close(os.open(f"{GIVEN['data']}/spare", os.O_CREAT))


# -- memory and code


@probe
def own_library() -> str:
    """A copy of an extension module, as any library of its own would be."""
    found = next(
        module.__file__
        for name in ("_ctypes", "_struct", "math", "_socket", "_posixsubprocess")
        if (module := sys.modules.get(name)) and (getattr(module, "__file__", None) or "").endswith(".so")
    )
    with directory() as place:
        shutil.copyfile(found, f"{place}/own.so")
        ctypes.CDLL(f"{place}/own.so")
        return place


@probe
def memory_for_code_from_an_own_file() -> int:
    with directory() as place:
        file = os.open(f"{place}/code", os.O_CREAT | os.O_RDWR)
        os.write(file, bytes(4096))
        return mapped(mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file)


def mapped(protection: int, flags: int, file: int = -1) -> int:
    found = LIBC.mmap(None, ctypes.c_size_t(4096), protection, flags, file, ctypes.c_long(0))
    if found == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found)


ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@probe
def memory_to_write_and_run() -> int:
    return mapped(7, ANONYMOUS)


@probe
def memory_to_write_and_run_shared() -> int:
    return mapped(7, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


@probe
def memory_made_executable() -> int:
    return protect("mprotect", mapped(3, ANONYMOUS))


@probe
def memory_of_a_stack_made_executable() -> int:
    return protect("mprotect", ctypes.addressof(LIBC_BYTES) & ~4095)


@probe
def memory_made_executable_with_a_key() -> int:
    return call("pkey_mprotect", mapped(3, ANONYMOUS), 4096, 5, -1)


@probe
def code_made_writable() -> int:
    """The other way round: what is run already may not be written."""
    code = ctypes.cast(LIBC.getpid, ctypes.c_void_p).value
    assert code is not None
    return protect("mprotect", code & ~4095, 7)


def protect(name: str, address: int, protection: int = 5) -> int:
    if getattr(LIBC, name)(ctypes.c_void_p(address), ctypes.c_size_t(4096), protection) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return address


@probe
def memory_locked() -> int:
    return call("mlock", ctypes.addressof(LIBC_BYTES), 4096)


# -- signals and identity


@probe
def signal_to_all() -> None:
    os.kill(-1, 0)


@probe
def signal_to_its_group() -> None:
    os.kill(0, 0)


@probe
def signal_to_pid_1() -> None:
    os.kill(1, 0)


@probe
def signal_to_the_zygote() -> None:
    os.kill(os.getppid() or 1, 0)


@probe
def signal_to_a_sibling() -> None:
    os.kill(GIVEN["sibling_pid"], 0)


@probe
def signal_to_the_kernel() -> None:
    os.kill(GIVEN["kernel_pid"], 0)


@probe
def signal_to_a_thread_of_a_sibling() -> int:
    call("tgkill", GIVEN["sibling_pid"], GIVEN["sibling_pid"], 0)
    return 1


@probe
def signal_with_a_value() -> int:
    call("rt_sigqueueinfo", GIVEN["sibling_pid"], 0, ctypes.create_string_buffer(struct.pack("=iii", 0, 0, -1), 128))
    return 1


@probe
def signal_by_descriptor() -> int:
    call("pidfd_send_signal", call("pidfd_open", GIVEN["sibling_pid"]), 0, 0, 0)
    return 1


@probe
def being_root() -> int:
    if 0 not in (*os.getresuid(), *os.getresgid(), *os.getgroups()):
        raise Denied(f"{os.getresuid()}")
    return 0


@probe
def becoming_root() -> None:
    os.setuid(0)


@probe
def becoming_another() -> int:
    return call("setresuid", 12345, 12345, 12345)


@probe
def group_of_root() -> None:
    os.setgid(0)


@probe
def groups_of_others() -> None:
    os.setgroups([0])


@probe
def capabilities_gained() -> int:
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    every = ctypes.create_string_buffer(struct.pack("=6I", 0xFF, 0xFF, 0, 0, 0, 0), 24)
    return call("capset", header, every)


# -- IPC, limits, terminals


@probe
def shared_memory_of_system_v() -> int:
    found = call("shmget", 0, 4096, 0o1600)
    LIBC.shmctl(found, 0, None)
    return found


@probe
def semaphores_of_system_v() -> int:
    found = call("semget", 0, 1, 0o1600)
    LIBC.semctl(found, 0, 0)
    return found


@probe
def messages_of_system_v() -> int:
    found = call("msgget", 0, 0o1600)
    LIBC.msgctl(found, 0, None)
    return found


@probe
def messages_of_posix() -> int:
    name = b"solo-probe"
    described = struct.pack("=8q", 0, 1, 16, 0, 0, 0, 0, 0)
    found = call("mq_open", name, os.O_CREAT | os.O_RDWR, 0o600, described)
    LIBC.mq_unlink(b"/" + name)
    return found


@probe
def limit_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))


@probe
def limit_changed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))


@probe
def limit_of_another_read() -> int:
    found = ctypes.create_string_buffer(16)
    call("prlimit64", GIVEN["sibling_pid"], 7, 0, found)
    return 1


@probe
def priority_raised() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, -5)


@probe
def priority_changed() -> None:
    os.nice(1)


def terminal(name: str, request: int) -> None:
    def attempt() -> int:
        buffer = ctypes.create_string_buffer(b"x", 64)
        if LIBC.ioctl(0, ctypes.c_ulong(request), buffer) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return 1

    PROBES[name] = attempt


terminal("typing_into_a_terminal", 0x5412)  # TIOCSTI
terminal("typing_into_a_terminal_with_high_bits", 0x5412 | 1 << 32)
terminal("typing_into_a_console", 0x541C)  # TIOCLINUX
terminal("controlling_terminal", 0x540E)  # TIOCSCTTY


# -- what it was given


def unexpected_descriptors() -> list[str]:
    """Beside the four, only what Trio made in this process: anonymous ones, and a pair of sockets whose end is here too."""
    found = []
    for each in range(256):
        try:
            seen = os.fstat(each)
        except OSError:
            continue
        kind = stat.S_IFMT(seen.st_mode)
        wanted = {
            0: kind == stat.S_IFCHR and seen.st_rdev == os.makedev(1, 3),
            1: kind == stat.S_IFIFO,
            2: kind == stat.S_IFIFO,
            3: kind == stat.S_IFSOCK,
        }.get(each)
        if wanted is None:
            wanted = kind == 0 or (kind == stat.S_IFSOCK and made_here(each))
        if not wanted:
            found.append(f"{each}: {oct(seen.st_mode)}")
    return found


@probe
def inherited_descriptors() -> list[str]:
    if not INHERITED:
        raise Denied("none")
    return INHERITED


def made_here(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as one:
        pid = struct.unpack("=iII", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid in (os.getpid(), os.getppid()) and one.family == socket.AF_UNIX


INHERITED = unexpected_descriptors()
"""When the service's code begins."""


@probe
def environment() -> dict[str, str]:
    names = ("PATH", "HOME", "SOLO_PROBE_SECRET", "PYTHONPATH", "LD_PRELOAD")
    found = {name: value for name in names if (value := LIBC.getenv(name.encode()))}
    if not os.environ and not found:
        raise Denied("it is empty")
    return {**os.environ, **{name: repr(value) for name, value in found.items()}}


@probe
def secret_of_the_kernel_in_memory() -> str:
    """No object in this process holds what the kernel's environment and data hold."""
    wanted = GIVEN["secret_reversed"][::-1]
    for each in gc.get_objects():
        if isinstance(each, dict):
            for value in list(each.values()):
                if isinstance(value, str) and value == wanted:
                    return value
    raise Denied("not found")


# -- all the rest


@probe
def any_other_system_call() -> list[int]:
    """Each number that the policy does not name, with no arguments: none does anything but fail at the filter."""
    found = []
    for each in GIVEN["denied_numbers"]:
        try:
            number(each)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOSYS):
                continue
        found.append(each)
    if not found:
        raise Denied("none")
    return found


def has_filter() -> bool:
    return bool(GIVEN["filtered"])


def attempted(name: str) -> str:
    try:
        found = PROBES[name]()
    except (Denied, ValueError) as why:
        return f"denied: {why}"
    except OSError as error:
        return f"denied: {errno.errorcode.get(error.errno or 0, repr(error))}"
    return f"through: {found!r}"[:ANSWER_BYTES]


def in_a_child(name: str) -> str:
    """In a child, where there can be one; a probe that is not back in time counts as one that got through."""
    if has_filter():
        return attempted(name)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.write(write, attempted(name).encode()[:ANSWER_BYTES])
        finally:
            os._exit(0)
    os.close(write)
    try:
        if not select.select([read], [], [], 5)[0]:
            os.kill(pid, signal.SIGKILL)
            return "through: it did not come back"
        said = os.read(read, ANSWER_BYTES).decode()
    finally:
        os.close(read)
        _, status = os.waitpid(pid, 0)
    return said or f"through: it ended with {status}"


@service.export
async def run(names: list[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = in_a_child(name)
        except Exception as error:  # noqa: BLE001 - the test says what to make of it
            found[name] = f"broken: {error!r}"
    return found


# -- what kills


@service.export
async def foreign_number() -> None:
    LIBC.syscall(ctypes.c_long(0x40000000 | 39))  # x32


@service.export
async def foreign_architecture() -> str:
    """`int 0x80`, as found by chance in the code of Python itself: it means a call of i386."""
    start = ctypes.cast(ctypes.pythonapi.PyObject_GetAttr, ctypes.c_void_p).value
    assert start is not None
    read, write = os.pipe()
    for page in range(start & ~(PAGE - 1), start + SCANNED, PAGE):
        if LIBC.write(write, ctypes.c_void_p(page), ctypes.c_size_t(PAGE)) != PAGE:  # fails where nothing is mapped
            break
        at = os.read(read, PAGE).find(b"\xcd\x80")
        if at >= 0:
            ctypes.CFUNCTYPE(ctypes.c_int)(page + at)()
            return "it came back"
    return "not found"


def leave(path: str) -> None:
    with contextlib.suppress(OSError), open(path, "w") as file:
        file.write("mine")


async def main(ctx: service.Context, task_status: Any) -> None:
    import trio

    GIVEN.update(ctx.config)
    leave(f"{GIVEN['scratch']}/{ctx.service_id}")
    task_status.started()
    await trio.sleep_forever()
