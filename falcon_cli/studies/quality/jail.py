"""The walls around untrusted code. This text runs by itself (`python -I -S -c`), on the standard library alone.

Its arguments are `Walls` and `Limits` of `sandbox.py` as JSON, the source of `harness.py`, and that source's own
arguments. It builds the walls, and starts the harness behind them, two processes away: what the code sees as its parent
is not falcon. It ends with the harness's exit code, with 128 and the number of the signal that ended it, or with
`NO_WALLS`.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

NO_WALLS = 97
"""Exit code where the system does not give what was asked for."""

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = _NEWNS | _NEWIPC | _NEWPID | _NEWNET
_SET_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38  # of prctl
_MOUNT_SETATTR = 442  # the number of the system call, the same on all processors
_HERE, _RECURSIVE, _READ_ONLY, _PRIVATE = -100, 0x8000, 1, 1 << 18
_NOSUID_NODEV = 2 | 4
_NOBODY = 65534

_SET_SECCOMP, _FILTER = 22, 2  # of prctl
_FORBIDDEN = {
    "x86_64": (0xC000003E, (41, 56, 57, 58, 62, 101, 200, 234, 424, 425, 435)),
    "aarch64": (0xC00000B7, (117, 129, 130, 131, 198, 220, 424, 425, 435)),
}
"""Processor → its name in the kernel, and the numbers of its calls that make sockets, processes and threads (socket,
clone, fork, vfork, clone3, io_uring_setup), send signals (kill, tkill, tgkill, pidfd_send_signal) and trace (ptrace).
"""


def main() -> None:
    """Build the walls and run the harness behind them."""
    walls, limits, harness, *words = sys.argv[1:]
    asked = json.loads(walls)
    calls = asked.pop("calls")
    try:
        _enclose(**asked)
    except (OSError, AttributeError):  # the system refuses, or has no such call
        os._exit(NO_WALLS)
    for _ in range(2):  # the first child is the new process namespace's first process, which no signal from inside ends
        child = os.fork()
        if child:
            os._exit(_exit_code(child))
    _confine(**json.loads(limits))
    try:
        if calls:
            _forbid_calls()
    except (OSError, KeyError):
        os._exit(NO_WALLS)
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", "-c", harness, *words])


def _enclose(user: int | None, namespaces: bool, mounts: bool) -> None:
    """Leave the network, the other processes, the right to write files and a superuser's powers behind.

    Args:
        user: the user that a superuser becomes; None: it stays itself.
        namespaces: no network, and no process but one's own.
        mounts: nothing can be written but an empty folder in memory, which is the working folder.

    Raises:
        OSError: the system does not give one of these.
    """
    if user is not None:
        os.chown(".", user, user)
    if namespaces and not (user is not None and _unshared(_NAMESPACES)):
        _become(user)
        user, inside = None, os.getuid() or _NOBODY
        maps = {"setgroups": "deny", "uid_map": f"{inside} {os.getuid()} 1", "gid_map": f"{inside} {os.getgid()} 1"}
        _check(_libc().unshare(_NEWUSER | _NAMESPACES))
        for name, text in maps.items():
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    if mounts:
        _mount(os.getcwd())
    _become(user)


def _unshared(flags: int) -> bool:
    """Leave namespaces by a superuser's right; False where there is none."""
    return _libc().unshare(flags) == 0


def _mount(folder: str) -> None:
    """Make everything read-only but a folder, which becomes an empty one in memory."""
    changes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, _PRIVATE, 0)
    root, size = ctypes.c_char_p(b"/"), ctypes.c_long(ctypes.sizeof(changes))
    _check(
        _libc().syscall(*map(ctypes.c_long, (_MOUNT_SETATTR, _HERE)), root, ctypes.c_long(_RECURSIVE), changes, size)
    )
    limits = b"mode=777,size=16m,nr_inodes=256"
    _check(_libc().mount(b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(_NOSUID_NODEV), limits))
    os.chdir(folder)  # the folder that was there lies below


def _become(user: int | None) -> None:
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)


def _confine(seconds: int, memory: int, file_bytes: int, files: int, **others: Any) -> None:
    """Limit this process and what it will execute; see `Limits`."""
    libc = _libc()
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    bounds = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_FSIZE: (file_bytes, file_bytes),
        resource.RLIMIT_NOFILE: (files, files),
        resource.RLIMIT_NPROC: (0, 0),  # it is there already: it may start no other, and no thread
    }
    for kind, bound in bounds.items():
        resource.setrlimit(kind, bound)


def _forbid_calls() -> None:
    """Let the kernel refuse calls for ever, with "not permitted"; calls of another processor's kind end the process.

    Raises:
        OSError: the kernel does not.
        KeyError: the processor's numbers are not known.
    """
    name, numbers = _FORBIDDEN[os.uname().machine]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    last = len(numbers)
    steps = [(load, 0, 0, 4), (equal, 1, 0, name), (answer, 0, 0, kill), (load, 0, 0, 0)]
    steps += [(at_least, last + 1, 0, 0x40000000)]  # the same calls by their other numbers (x32)
    steps += [(equal, last - place, 0, number) for place, number in enumerate(numbers)]
    steps += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program)))
    _check(_libc().prctl(_SET_SECCOMP, _FILTER, head, 0, 0))


def _exit_code(child: int) -> int:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
