import errno
import hashlib
import threading
import time

import pytest
from filelock import FileLock

from falcon_cli.errors import FalconError
from falcon_cli.sources import atomic_file, atomic_folder, home, locked
from falcon_cli.sources.disk import disk_errors, sha256_of


def test_home_is_the_variable_or_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FALCON_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("FALCON_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".cache" / "falcon"


def test_a_file_appears_whole(tmp_path):
    final = tmp_path / "new" / "file.bin"
    with atomic_file(final) as new:
        new.write_text("text")
        assert not final.exists()
    assert final.read_text() == "text"
    assert list(final.parent.iterdir()) == [final]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_and_nothing_else(tmp_path, failure):
    final = tmp_path / "file.bin"
    final.write_text("old")

    def write():
        with atomic_file(final) as new:
            new.write_text("half")
            raise failure

    with pytest.raises(failure):
        write()
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_a_folder_appears_whole_and_replaces_an_older_one(tmp_path):
    final = tmp_path / "model"
    for text in ("first", "second"):
        with atomic_folder(final) as new:
            (new / text).write_text(text)
        assert [path.name for path in final.iterdir()] == [text]
    assert list(tmp_path.iterdir()) == [final]


def test_a_failure_keeps_the_old_folder_and_nothing_else(tmp_path):
    final = tmp_path / "model"
    final.mkdir()
    (final / "old").touch()

    def write():
        with atomic_folder(final) as new:
            (new / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


@pytest.mark.parametrize(
    "full", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("IoError: No space left on device")]
)
def test_a_full_disk_is_one_clear_line(monkeypatch, tmp_path, full):
    monkeypatch.setenv("FALCON_HOME", str(tmp_path))

    def write():
        with atomic_folder(tmp_path / "model", needed=98_000_000):
            raise full

    with pytest.raises(FalconError, match="no disk space left") as caught:
        write()
    for part in (str(tmp_path), "98 MB", "FALCON_HOME"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_forbidden_place_is_one_clear_line(tmp_path):
    with pytest.raises(FalconError, match="no permission to write /somewhere"), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")


def test_a_file_in_the_folders_place_is_one_clear_line(tmp_path):
    (tmp_path / "home").touch()
    with pytest.raises(FalconError, match="should be a folder"), locked(tmp_path / "home" / "file"):
        pass


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(FalconError, match=r"^mine$"), disk_errors(tmp_path):
        raise FalconError("mine")


def test_a_held_lock_is_waited_for_and_told(tmp_path, capsys):
    path, done, held = tmp_path / "file.bin", [], threading.Event()
    other = FileLock(tmp_path / ".file.bin.lock")

    def hold():
        with other:
            held.set()
            time.sleep(0.1)
            done.append("other")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with locked(path):
        done.append("mine")
    thread.join()
    assert done == ["other", "mine"]
    assert "waiting for another falcon" in capsys.readouterr().err


def test_a_free_lock_is_silent_and_given_back(tmp_path, capsys):
    for _ in range(2):
        with locked(tmp_path / "file.bin"):
            pass
    assert capsys.readouterr().err == ""


def test_a_file_is_hashed_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("falcon_cli.sources.disk._PIECE", 3)
    (tmp_path / "file").write_bytes(b"falcon takes wing")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"falcon takes wing").hexdigest()
