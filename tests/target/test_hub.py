import os
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

for model in sys.argv[1:]:
    for load in (load_target, load_tokenizer):
        try:
            load(TargetRecipe(model, revision="other" if "RevisionNotFound" in model else None))
        except FalconError as error:
            print(error)
"""
REFUSALS = {
    "401/GatedRepo": "accepted its licence: accept it on the model's page, then log in with hf auth login",
    "403/GatedRepo": "accepted its licence",
    "403/nothing": "accepted its licence",
    "401/nothing": "no such model, or it is a private one: check the name, or log in with hf auth login",
    "404/RepoNotFound": "no such model, or it is a private one",
    "404/RevisionNotFound": "no such revision: check --revision",
}
"""What the hub says of the models: a status and an error code. And what falcon makes of it."""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What falcon says of each model; one process asks for all, as transformers takes seconds to import."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code = next(model for model in REFUSALS if model in self.path).split("/")
            self.send_response(int(status))
            if code != "nothing":
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path_factory.mktemp("hf"))}
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | own
    command = [sys.executable, "-c", CODE, *REFUSALS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=True)
    server.shutdown()
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(REFUSALS)
    return lines


@pytest.mark.parametrize(("model", "part"), REFUSALS.items())
def test_the_hub_s_refusal_is_one_line_that_helps(told, model, part):
    own = [line for line in told if line.startswith(f"{model}: ")]
    assert len(own) == 2
    assert all(part in line for line in own)


def test_what_is_wrong_with_a_folder_is_told_as_it_is(tmp_path):
    told = why_not_loaded(str(tmp_path), OSError("no weights\nanywhere"), "a causal LM")
    assert told == f"{tmp_path}: cannot be loaded as a causal LM (no weights)"
