"""Code that does what it should not."""

import os
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from falcon_cli.errors import FalconError
from falcon_cli.studies.quality.sandbox import Limits, Outcome, Sandbox, Walls

TEST = "def check(candidate):\n    assert candidate(2) == 4\n"
RIGHT = "def double(x):\n    return 2 * x\n"
NOT_HERE = Outcome("failed", "the system does not give the walls asked for")
QUICK = Limits(seconds=2, memory=256 << 20, wall_seconds=20)


@pytest.fixture(scope="module")
def best():
    return Sandbox.open(QUICK)


@pytest.fixture
def run(best):
    """Run the body of a function that should double its argument."""
    return lambda body, sandbox=best: sandbox.run(f"def double(x):\n{textwrap.indent(body, '    ')}\n", TEST, "double")


def test_what_is_right_passes_and_what_is_wrong_fails_with_its_reason(best, run):
    assert best.run(RIGHT, TEST, "double") == Outcome("passed")
    assert run("return x") == Outcome("failed", "AssertionError")
    assert run("return y") == Outcome("failed", "NameError: name 'y' is not defined")
    assert run("return (") == Outcome("failed", "SyntaxError: '(' was never closed (answer, line 2)")
    assert best.run("x = 1", TEST, "double") == Outcome("failed", "KeyError: 'double'")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("import os; os._exit(0)", "ended before its tests did"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import ctypes; ctypes.string_at(0)", "ended by signal 11"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "E"),
        ("return double(x)", "RecursionError: maximum recursion depth exceeded"),
        ("import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'{\"token\": \"' + b'0' * 32 + b'\"}')\n"
         "    except OSError: pass\nos._exit(0)", "ended before its tests did"),
    ],
)  # fmt: skip
def test_an_exit_is_no_pass(run, body, reason):
    assert run(body) == Outcome("failed", reason)


def test_an_exit_while_the_code_is_read_is_no_pass(best):
    assert best.run(RIGHT + "import os; os._exit(0)", TEST, "double").mark == "failed"
    assert best.run(RIGHT + "raise SystemExit", TEST, "double").mark == "failed"
    assert best.run(RIGHT + "def check(candidate): pass\ndouble = str", TEST, "double").mark == "failed"


def test_what_never_ends_is_stopped(best, run):
    assert run("while True: pass") == Outcome("timed out", "its processor time was up")
    brief = replace(best, limits=replace(QUICK, wall_seconds=1.0))
    assert run("import time; time.sleep(60)", brief) == Outcome("timed out", "its time on the clock was up")
    deaf = "import signal\nsignal.pthread_sigmask(0, range(1, 60))\nwhile True: pass"
    assert run(deaf) == Outcome("failed", "ended by signal 9")


def test_memory_files_and_processes_have_limits(run):
    assert run("bytearray(1 << 30)") == Outcome("failed", "MemoryError")
    assert run("open('big', 'wb').write(bytes(2 << 20))") == Outcome("failed", "OSError: [Errno 27] File too large")
    assert "Too many open files" in run("import os\nreturn [open(os.devnull) for _ in range(99)]").reason
    many = "import os, time\nfor _ in range(30):\n    if os.fork() == 0: time.sleep(3); os._exit(0)\nreturn 2 * x"
    assert run(many).mark == "failed"
    assert "can't start new thread" in run("import threading; threading.Thread(target=print).start()").reason
    assert run("import subprocess; subprocess.run(['true'])").mark == "failed"


def test_the_folder_is_empty_and_its_own(run, best):
    assert (
        run("import os\nassert os.listdir() == [] and os.environ['HOME'] == os.getcwd()\nreturn 2 * x").mark == "passed"
    )
    assert run("open('mine', 'w').write('x')\nassert open('mine').read() == 'x'\nreturn 2 * x").mark == "passed"
    if best.walls.mounts:
        full = "for n in range(20): open(str(n), 'wb').write(bytes(1 << 20))"
        assert run(full) == Outcome("failed", "OSError: [Errno 28] No space left on device")


def test_the_environment_holds_no_secret(run, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    body = "import os\nassert 'SECRET_TOKEN' not in os.environ and os.environb[b'LANG'] == b'C.UTF-8'\nreturn 2 * x"
    assert run(body).mark == "passed"
    reading = f"return 4 if b's3cret' in open('/proc/{os.getpid()}/environ', 'rb').read() else 0"
    monkeypatch.delenv("SECRET_TOKEN")
    assert run(reading).mark == "failed"


def test_megabytes_of_output_go_nowhere(run, capfd):
    assert (
        run("import sys\nfor _ in range(50): print('x' * 10 ** 6, file=sys.stderr); print('x' * 10 ** 6)").mark
        == "failed"
    )
    assert run("print('x' * 10 ** 7)\nreturn 2 * x").mark == "passed"
    assert capfd.readouterr() == ("", "")


def test_a_report_of_megabytes_is_cut(best, run):
    brief = replace(best, limits=replace(QUICK, wall_seconds=3.0))
    body = "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'x' * 10 ** 7)\n    except OSError: pass"
    outcome = run(body, brief)  # nobody reads on: the writing waits, or is refused
    assert outcome.mark in ("timed out", "failed")
    assert len(outcome.reason) < 1000


def test_it_cannot_kill_who_waits_for_it(run):
    killing = "    try: os.kill(pid, 9)\n    except OSError: pass\n"
    body = f"import os\nfor pid in (os.getppid(), {os.getpid()}, -1):\n{killing}return 2 * x"
    assert run(body).mark == "passed"
    assert run(body, Sandbox(Walls(namespaces=True), QUICK)) in (Outcome("passed"), NOT_HERE)
    bare = "import os\nos.kill(os.getppid(), 9)\nimport time; time.sleep(9)"
    assert run(bare, Sandbox(Walls(), QUICK)) == Outcome("failed", "ended by signal 9")  # and falcon is there


def test_sockets_are_refused(run, best):
    if not best.walls.calls and not best.walls.namespaces:
        pytest.skip(f"this system gives neither: code can {best.walls.missing()}")
    assert run("import socket; socket.create_connection(('127.0.0.1', 9), 1)").mark == "failed"
    if best.walls.calls:
        assert "not permitted" in run("import socket; socket.socket(socket.AF_UNIX)").reason


def test_namespaces_alone_have_no_network(run):
    import socket

    alone = Sandbox(Walls(None, namespaces=True), QUICK)
    if alone.run(RIGHT, TEST, "double").mark != "passed":
        pytest.skip("this system gives no unprivileged namespaces")
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)\nreturn 2 * x"
        assert run(body, alone).mark == "failed"
        assert run(body, Sandbox(Walls(), QUICK)).mark == "passed"  # it would have been reached


def test_nothing_outside_can_be_written(run, best, tmp_path):
    if not best.walls.mounts:
        pytest.skip("this system gives no unprivileged namespaces")
    tmp_path.chmod(0o777)
    (tmp_path / "own").write_text("kept")
    assert "Read-only" in run(f"open('{tmp_path}/own', 'w').write('lost')").reason
    assert (tmp_path / "own").read_text() == "kept"


def test_a_superusers_code_has_no_powers(run, best):
    if best.walls == Walls():
        pytest.skip("this system gives no walls")
    status = "powers = open('/proc/self/status').read().split('CapEff:')[1].split()[0]\nassert int(powers, 16) == 0\n"
    assert run(status + "import os\nassert os.getuid() != 0\nreturn 2 * x").mark == "passed"


def test_what_the_system_refuses_is_said_once(monkeypatch, capsys):
    run = Sandbox.run
    monkeypatch.setattr(Sandbox, "run", lambda self, *task: NOT_HERE if self.walls.namespaces else run(self, *task))
    sandbox = Sandbox.open(QUICK)
    told = capsys.readouterr().err
    assert (sandbox.walls.mounts, told.count("\n")) == (False, 1)
    assert "write files outside its folder (no unprivileged namespaces)" in told
    monkeypatch.setattr(Sandbox, "run", lambda self, *task: Outcome("failed", "no Python"))
    with pytest.raises(FalconError, match=r"code cannot be run here \(no Python\): leave out run_code"):
        Sandbox.open(QUICK)


@pytest.mark.parametrize("python", ["/usr/bin/python3"])
def test_a_superusers_code_runs_as_nobody_where_nobody_can_read_python(monkeypatch, python):
    if os.geteuid() != 0 or not Path(python).exists():
        pytest.skip("for a superuser, with a Python that all may read")
    monkeypatch.setattr(sys, "executable", python)
    sandbox = Sandbox.open(QUICK)
    assert sandbox.walls.user == 65534
    code = "import os\ndef double(x):\n    return x * 2 if os.getuid() == 65534 else 0"
    assert sandbox.run(code, TEST, "double") == Outcome("passed")
