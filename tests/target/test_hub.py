import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from falcon_cli.target.hub import why_not_loaded

CODE = """
import sys
from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target, load_tokenizer

for load in (load_target, load_tokenizer):
    try:
        load(TargetRecipe("org/model", revision=sys.argv[1] or None))
    except FalconError as error:
        print(error)
"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Start a model hub that answers everything with a status and huggingface.co's error code, and ask it."""
    servers = []

    def ask(status, code, revision=""):
        class Refusal(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Refusal))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{servers[-1].server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        done = subprocess.run([sys.executable, "-c", CODE, revision], capture_output=True, text=True, timeout=100)
        return done.stdout.splitlines()

    yield ask
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "part"),
    [
        (401, "GatedRepo", "accepted its licence: accept it on the model's page, then log in with hf auth login"),
        (403, "GatedRepo", "accepted its licence"),
        (403, None, "accepted its licence"),
        (401, None, "no such model, or it is a private one: check the name, or log in with hf auth login"),
        (404, "RepoNotFound", "no such model, or it is a private one"),
        (404, "RevisionNotFound", "no such revision: check --revision"),
    ],
)
def test_the_hub_s_refusal_is_one_line_that_helps(hub, status, code, part):
    lines = hub(status, code, "other" if code == "RevisionNotFound" else "")
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("org/model: ")
        assert part in line


def test_what_is_wrong_with_a_folder_is_told_as_it_is(tmp_path):
    told = why_not_loaded(str(tmp_path), OSError("no weights\nanywhere"), "a causal LM")
    assert told == f"{tmp_path}: cannot be loaded as a causal LM (no weights)"
