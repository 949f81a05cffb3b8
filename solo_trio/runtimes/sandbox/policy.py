"""Which system calls a service may make. Owns: the rules. Never: how they are enforced.

Everything that is not named fails with EPERM. A service has four descriptors (3 is its socket to the kernel), no way to make a
socket that reaches anything, and no other process to talk to.
"""

from __future__ import annotations

import errno
from typing import Final

from solo_trio.runtimes.sandbox.seccomp import ALLOW, DENY, Check, Rules, fails

_FILES: Final = """
read write readv writev pread64 pwrite64 lseek close fstat newfstatat stat lstat statx statfs fstatfs access faccessat
faccessat2 open openat readlink readlinkat getcwd chdir fchdir getdents64 mkdir mkdirat rmdir unlink unlinkat
rename renameat renameat2
ftruncate truncate fsync fdatasync fallocate fadvise64 flock umask copy_file_range sendfile dup dup2 dup3
"""
_ATTRIBUTES: Final = "utimensat fchmod fchmodat"
"""Landlock does not look at these: they are allowed only where nothing but the service's own files can be reached."""
_WAITING: Final = """
pipe2 epoll_create1 epoll_ctl epoll_wait epoll_pwait poll ppoll select pselect6 eventfd2
recvfrom recvmsg shutdown getsockname getpeername
"""
_PROCESS: Final = """
munmap mremap brk madvise rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack rt_sigpending rt_sigtimedwait rt_sigsuspend
futex get_robust_list set_robust_list rseq membarrier sched_yield sched_getaffinity restart_syscall
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrandom
getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getpgrp getpgid getsid getgroups getrusage uname sysinfo
getpriority getcpu set_tid_address exit exit_group wait4
"""

_ABSENT: Final = fails(errno.ENOSYS)
_PRETEND: Final = fails(0)
_ANSWERED: Final = {
    # Looked at through pointers or a ring, where no filter can see; whoever asks falls back to what can be seen.
    "clone3": _ABSENT,
    "openat2": _ABSENT,
    "io_uring_setup": _ABSENT,
    "io_uring_enter": _ABSENT,
    "io_uring_register": _ABSENT,
    "memfd_create": _ABSENT,
    "pidfd_open": _ABSENT,
    "close_range": _ABSENT,
}

_THREAD: Final = 0x00010000 | 0x00000100 | 0x00000800
"""CLONE_THREAD, VM and SIGHAND: a thread, and nothing that could be a process."""
_NEVER_CLONE: Final = 0x7E020080 | 0x4000
"""Every CLONE_NEW*, and VFORK."""
_PROT_WRITE: Final = 2
_PROT_EXEC: Final = 4
_MSG_FASTOPEN: Final = 0x20000000
_AF_UNIX: Final = 1
_SOCK_STREAM: Final = 1
_SOCK_TYPES: Final = 0xF
_SOL_SOCKET: Final = 1
_SOL_TCP: Final = 6
_SO_REUSEADDR, _SO_SNDBUF, _SO_RCVBUF, _SO_KEEPALIVE, _SO_LINGER, _SO_RCVTIMEO, _SO_SNDTIMEO = 2, 7, 8, 9, 13, 20, 21
_SO_PEERPIDFD: Final = 77
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_FCNTL: Final = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
"""DUPFD, GETFD, SETFD, GETFL, SETFL, GETLK, SETLK, SETLKW, DUPFD_CLOEXEC: not the owner, the lease or the size of a pipe."""
_IOCTL: Final = (0x5401, 0x541B, 0x5421, 0x5451, 0x5450)
"""TCGETS, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX."""

_CHECKED: Final[dict[str, tuple[Check, ...]]] = {
    "clone": (Check(0, "any_of", _NEVER_CLONE, DENY), Check(0, "all_of", _THREAD)),
    # Code comes from files; memory that was written is never run.
    "mmap": (Check(2, "none_of", _PROT_EXEC), Check(2, "none_of", _PROT_WRITE)),
    "mprotect": (Check(2, "none_of", _PROT_EXEC),),
    # A pair of datagram sockets could send to the path of any socket.
    "socketpair": (Check(0, "is_not", _AF_UNIX, DENY), Check(1, "masked", _SOCK_STREAM, mask=_SOCK_TYPES)),
    # To whom the socket is connected, and nobody else; MSG_FASTOPEN connects, and Landlock does not see it.
    "sendto": (
        Check(3, "any_of", _MSG_FASTOPEN, DENY),
        Check(4, "is_not", 0, DENY),
        Check(4, "high_is_not", 0, DENY),
        Check(5, "is", 0),
    ),
    "sendmsg": (Check(2, "none_of", _MSG_FASTOPEN),),
    # Options of TCP mean nothing on what are pairs of unix sockets, but http.client insists; buffers would be memory of the
    # kernel that nobody counts.
    "setsockopt": (
        Check(1, "is", _SOL_TCP, _PRETEND),
        Check(1, "is_not", _SOL_SOCKET, DENY),
        Check(2, "is", _SO_SNDBUF, _PRETEND),
        Check(2, "is", _SO_RCVBUF, _PRETEND),
        *(Check(2, "is", each) for each in (_SO_REUSEADDR, _SO_KEEPALIVE, _SO_LINGER, _SO_RCVTIMEO, _SO_SNDTIMEO)),
    ),
    # But for a pidfd of whoever made the socket, which is the kernel of this system.
    "getsockopt": (Check(2, "is", _SO_PEERPIDFD, DENY), Check(2, "none_of", 0)),
    # Its own limits may be read.
    "prlimit64": (
        Check(0, "is_not", 0, DENY),
        Check(2, "is_not", 0, DENY),
        Check(2, "high_is_not", 0, DENY),
        Check(0, "is", 0),
    ),
    "prctl": (Check(0, "is", _PR_SET_NAME), Check(0, "is", _PR_GET_NAME)),
    "fcntl": tuple(Check(1, "is", each) for each in _FCNTL),
    "ioctl": tuple(Check(1, "is", each) for each in _IOCTL),
}


def rules(*, own_files: bool, pid: int) -> Rules:
    """For the process `pid`, as it calls itself. `own_files`: what it can reach is read-only or nobody else's."""
    names = f"{_FILES} {_ATTRIBUTES if own_files else ''} {_WAITING} {_PROCESS}".split()
    itself = (Check(0, "is", pid, ALLOW),)
    return Rules(frozenset(names), _ANSWERED, {**_CHECKED, "kill": itself, "tgkill": itself})
