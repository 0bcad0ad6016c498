import os
import subprocess
import sys
from pathlib import Path

import pytest

from falcon_cli.native import build
from falcon_cli.native.build import NoKernelsError, load_kernels

PROBE = """
#include <torch/library.h>
TORCH_LIBRARY(falcon_probe, library) { library.def("answer() -> int", [] { return (int64_t)42; }); }
"""
SCRIPT = """
import sys
from pathlib import Path
from falcon_cli.native import build
build.SOURCE, build.FLAGS = Path(sys.argv[1]), ["-O0", "-std=c++20"]
build.load_kernels()
import torch
print(torch.ops.falcon_probe.answer())
"""


def fresh():
    """The check without its memory of an earlier success."""
    load_kernels.__wrapped__()


def test_a_processor_without_the_instructions_is_told(monkeypatch):
    monkeypatch.setattr(build, "_processor", lambda: "fpu sse2 fma")
    with pytest.raises(NoKernelsError, match=r"^this processor has no avx2$"):
        fresh()


def test_a_machine_without_a_compiler_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("FALCON_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NoKernelsError, match=r"no C\+\+ compiler \(CXX names no-such-compiler, which is not there\)"):
        fresh()


def test_a_compiler_of_several_words_is_called_by_them_all(monkeypatch, tmp_path):
    """As in `CXX="ccache g++"`; the first word here notes what it runs."""
    source, wrapper, log = tmp_path / "source", tmp_path / "wrap it", tmp_path / "log"
    source.mkdir()
    (source / "probe.cpp").write_text(PROBE.replace("falcon_probe", "falcon_wrapped"))
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec "$@"\n')
    wrapper.chmod(0o755)
    script = SCRIPT.replace("falcon_probe", "falcon_wrapped")
    done = subprocess.run(
        [sys.executable, "-c", script, str(source)],
        env={**os.environ, "FALCON_HOME": str(tmp_path / "home"), "CXX": f"'{wrapper}' g++"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    calls = log.read_text().splitlines()
    assert all(call.startswith("g++ ") for call in calls)
    assert any("-O0" in call for call in calls)
    assert not list((tmp_path / "home").rglob("compiler"))


def test_source_that_does_not_compile_is_one_line_and_leaves_nothing(monkeypatch, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "broken.cpp").write_text("int main() { return missing; }")
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setenv("FALCON_HOME", str(tmp_path / "home"))
    with pytest.raises(NoKernelsError, match="the compiler failed") as error:
        fresh()
    assert "\n" not in str(error.value)
    assert not [path for path in (tmp_path / "home" / "native").iterdir() if path.is_dir()]


def test_another_processor_or_source_gets_another_library(monkeypatch):
    mine = build.version()
    monkeypatch.setattr(build, "_processor", lambda: "avx2 fma avx512f")
    assert build.version() != mine


@pytest.mark.parametrize(("flags", "expected"), [("avx2 fma", False), ("avx512_bf16", True), ("fma amx_bf16", True)])
def test_units_for_bf16_are_known(monkeypatch, flags, expected):
    monkeypatch.setattr(build, "_processor", lambda: flags)
    assert build.multiplies_bf16() is expected


def test_two_processes_at_once_compile_once_and_a_third_finds_it(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "probe.cpp").write_text(PROBE)
    start = {
        "args": [sys.executable, "-c", SCRIPT, str(source)],
        "env": {**os.environ, "FALCON_HOME": str(tmp_path / "home")},
        "cwd": Path(__file__).parents[2],
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    said = []
    for together in (2, 1):
        for process in [subprocess.Popen(**start) for _ in range(together)]:
            out, err = process.communicate(timeout=300)
            assert (process.returncode, out) == (0, "42\n"), err
            said.append(err)
    assert sum("compiling" in text for text in said) == 1
