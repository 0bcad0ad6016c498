"""Untrusted code, run apart: a Python of its own, in an empty folder, with limits and, where it can be, no network.

Every run is a new interpreter with the standard library alone, and with no environment, output or open file of ours.
Limits bound its processor time, memory, files and the size of a file; it may start no process and no thread, and is
killed when its time is up. Where the system lets a user have namespaces of its own, it sees no network and no other
process, and can write nothing but its folder, which lies in memory. The kernel refuses it sockets and signals besides
(on x86-64 and 64-bit ARM). A superuser's code runs as nobody where nobody can read Python's libraries, else without a
superuser's powers. `Sandbox.open` tries which of these the system gives, and says what is missing.

"Passed" is a random token that the harness writes after the last assertion: an exit, however early, is no pass.

What it cannot prevent: code and tests share one interpreter, so code that is written against this very harness can find
the token in its callers' frames, or return values that equal everything. Code can read the files that the user can
read, but has nowhere to send them. Without namespaces it can write the user's files, and what the user's processes hold
can be read; without the kernel's refusal too, it can use the network and signal the user's processes.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from inspect import getsource
from typing import Literal

from falcon_cli.console import warn
from falcon_cli.errors import FalconError
from falcon_cli.studies.quality import harness, jail

Mark = Literal["passed", "failed", "timed out"]
_JAIL, _HARNESS = getsource(jail), getsource(harness)
_NOBODY = 65534
_REPORT_BYTES = 4096
_TRIAL = "import collections, decimal, heapq, math, random, re, typing\ndef one(): return 1\n"
_TEST = "def check(candidate): assert candidate() == 1"


@dataclass(frozen=True)
class Limits:
    """What a run may use."""

    seconds: int = 5
    """Processor time."""
    memory: int = 1 << 30
    """Bytes of address space."""
    file_bytes: int = 1 << 20
    """Bytes of the largest file."""
    files: int = 32
    """Files open at a time."""
    wall_seconds: float = 20.0
    """Time on the clock, on a machine that may be busy with other things."""


@dataclass(frozen=True)
class Walls:
    """What a run is kept from."""

    user: int | None = None
    """The user that a superuser's code runs as; None: the user itself."""
    namespaces: bool = False
    """No network and no process of others."""
    mounts: bool = False
    """Nothing to write but its own folder."""
    calls: bool = False
    """No system call that makes a socket, process or thread, or sends a signal."""

    @classmethod
    def best_first(cls) -> "list[Walls]":
        """All that may be tried here."""
        users = [_NOBODY, None] if hasattr(os, "geteuid") and os.geteuid() == 0 else [None]
        kinds = [(True, True, True), (True, False, True), (False, False, True), (True, False, False), (False,) * 3]
        return [cls(user, *kind) for kind in kinds for user in users]

    def missing(self) -> str:
        """What code can still do, in words; empty where nothing is missing."""
        superuser = self.user is None and hasattr(os, "geteuid") and os.geteuid() == 0
        gaps = {
            "use the network and signal other processes (no unprivileged namespaces)": not self.namespaces | self.calls,
            "write files outside its folder (no unprivileged namespaces)": not self.mounts,
            "start processes": superuser and not self.calls,
        }
        return " and ".join(gap for gap, there in gaps.items() if there)


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    mark: Mark
    reason: str = ""
    """Why it did not pass, on one short line."""


@dataclass(frozen=True)
class Sandbox:
    """Where code is run."""

    walls: Walls
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def open(cls, limits: Limits | None = None) -> "Sandbox":
        """A sandbox with the best walls that this system gives; one line says what is missing.

        Raises:
            FalconError: Not even a plain process runs.
        """
        reason = ""
        for walls in Walls.best_first():
            sandbox = cls(walls, limits or Limits())
            outcome = sandbox.run(_TRIAL, _TEST, "one")
            if outcome.mark == "passed":
                if walls.missing():
                    warn(f"code of answers can {walls.missing()}: run it where you would run a stranger's program")
                return sandbox
            reason = outcome.reason
        raise FalconError(f"code cannot be run here ({reason}): leave out run_code")

    def run(self, code: str, test: str, entry_point: str) -> Outcome:
        """Run code, then its tests; nothing that the code does is raised here.

        Args:
            code: A program.
            test: Its tests: a program that defines `check`, which takes the function.
            entry_point: The name of the function.
        """
        token = secrets.token_hex(16)
        task = {"code": code, "test": test, "entry_point": entry_point, "token": token}
        with tempfile.TemporaryDirectory(prefix="falcon-code-", ignore_cleanup_errors=True) as folder:
            exit_code, report = self._run(folder, json.dumps(task).encode())
        return _outcome(exit_code, report, token)

    def _run(self, folder: str, task: bytes) -> tuple[int | None, bytes]:
        """The exit code (None: its time on the clock was up) and what it reported."""
        reading, writing = os.pipe()
        words = [json.dumps(asdict(part)) for part in (self.walls, self.limits)]
        with os.fdopen(reading, "rb", buffering=0) as report:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", "-c", _JAIL, *words, _HARNESS, str(writing)],
                    cwd=folder,
                    env=_environment(folder),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(writing,),
                    start_new_session=True,
                )
            finally:
                os.close(writing)
            try:
                process.communicate(task, self.limits.wall_seconds)
                exit_code: int | None = process.returncode
            except subprocess.TimeoutExpired:
                exit_code = None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            os.set_blocking(reading, False)  # a process that left the group may hold the other end
            return exit_code, report.read(_REPORT_BYTES) or b""


def _environment(folder: str) -> dict[str, str]:
    """All that code finds in its environment: its folder, and where Python's own libraries may lie."""
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", **libraries}


def _outcome(exit_code: int | None, report: bytes, token: str) -> Outcome:
    said = _json(report)
    if exit_code is None:
        return Outcome("timed out", "its time on the clock was up")
    if exit_code == 128 + signal.SIGXCPU:
        return Outcome("timed out", "its processor time was up")
    if said.get("token") == token:
        return Outcome("passed")
    if exit_code == jail.NO_WALLS:
        return Outcome("failed", "the system does not give the walls asked for")
    ended = f"ended by signal {exit_code - 128}" if exit_code > 128 else "ended before its tests did"
    return Outcome("failed", str(said.get("reason") or ended)[:200])


def _json(report: bytes) -> dict[str, object]:
    """What was reported; nothing where the code wrote something else there."""
    try:
        said = json.loads(report)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
