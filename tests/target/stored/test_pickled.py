import json
import os
import pickle
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file

from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target, load_tokenizer
from falcon_cli.target.stored import pickled
from falcon_cli.target.stored.pickled import with_safetensors

PROMPT = torch.tensor([6, 7, 8])


def to_pickles(folder, shards=1, **saving):
    """Store the weights as PyTorch did: in one file, or in several with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin", **saving)
        return
    places = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = dict(list(weights.items())[number::shards])
        torch.save(part, folder / name, **saving)
        places.update(dict.fromkeys(part, name))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def logits(folder):
    return load_target(TargetRecipe(str(folder), device="cpu", kernels="torch")).model.prefill(PROMPT).logits_TV


def cached(home):
    return sorted(path for path in (home / "unpickled").iterdir() if path.is_dir())


@pytest.fixture(autouse=True)
def _own_home(home):
    """Converted weights lie in a home of the test's own."""


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("saving", [{}, {"_use_new_zipfile_serialization": False}])
def test_pickled_weights_load_as_the_safetensors_they_were(saved_model, home, shards, saving):
    expected = logits(saved_model)
    to_pickles(saved_model, shards, **saving)
    (saved_model / "training_args.bin").write_bytes(pickle.dumps(print))
    (saved_model / "optimizer.bin").write_bytes(b"no weights")
    assert torch.equal(logits(saved_model), expected)
    (folder,) = cached(home)
    assert folder.name.startswith("tiny-")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_they_are_converted_once_and_again_when_the_model_changes(saved_model, home, capsys):
    to_pickles(saved_model)
    first = with_safetensors(str(saved_model), None)
    assert "converting tiny to safetensors (once)" in capsys.readouterr().err
    assert with_safetensors(str(saved_model), None) == first
    assert capsys.readouterr().err == ""
    weights = torch.load(saved_model / "pytorch_model.bin")
    weights["model.norm.weight"] += 1
    torch.save(weights, saved_model / "pytorch_model.bin")
    second = with_safetensors(str(saved_model), None)
    (saved_model / "config.json").write_text((saved_model / "config.json").read_text() + "\n")
    assert len({first, second, with_safetensors(str(saved_model), None)}) == 3


def test_safetensors_are_taken_where_there_are_both(saved_model):
    shutil.copy(saved_model / "model.safetensors", saved_model / "pytorch_model.bin")
    assert with_safetensors(str(saved_model), None) == str(saved_model)
    assert with_safetensors("org/model/none", None) == "org/model/none"


def test_weights_that_share_memory_are_kept_whole(saved_model, monkeypatch):
    to_pickles(saved_model)
    weights = torch.load(saved_model / "pytorch_model.bin")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    weights["model.layers.0.self_attn.k_proj.weight"] = weights["model.layers.0.self_attn.q_proj.weight"][:16]
    weights["model.layers.0.self_attn.o_proj.weight"] = weights["model.layers.0.self_attn.o_proj.weight"].T
    torch.save(weights, saved_model / "pytorch_model.bin")
    monkeypatch.setattr("falcon_cli.target.stored.weight_files.SHARD_BYTES", 20_000)
    folder = with_safetensors(str(saved_model), None)
    found = {}
    for path in sorted(os.listdir(folder)):
        if path.endswith(".safetensors"):
            found |= load_file(f"{folder}/{path}")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    assert logits(saved_model).isfinite().all()


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_nothing_is_run(saved_model, tmp_path, home, plain):
    to_pickles(saved_model)
    path, trace = saved_model / "pytorch_model.bin", tmp_path / "trace"
    if plain:
        path.write_bytes(pickle.dumps({"weight": Payload(trace)}))
    else:
        torch.save({**torch.load(path), "extra": Payload(trace)}, path)
    with pytest.raises(FalconError, match=r"other objects than tensors.*nothing of it was executed") as error:
        load_target(TargetRecipe(str(saved_model), device="cpu"))
    assert "\n" not in str(error.value)
    assert not trace.exists()
    assert cached(home) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "no list of named tensors"),
        ({"a": {"b": torch.ones(1)}}, "no list of named tensors"),
        (None, "cannot be"),
    ],
)
def test_what_is_no_list_of_weights_is_one_line(saved_model, content, reason):
    to_pickles(saved_model)
    path = saved_model / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:3000]) if content is None else torch.save(content, path)
    with pytest.raises(FalconError, match=reason) as error:
        with_safetensors(str(saved_model), None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../x.bin", "/x.bin", "a/x.bin", "..\\x.bin", "model.pt", ".."])
def test_an_index_that_leaves_its_folder_is_refused(saved_model, name):
    to_pickles(saved_model, 2)
    torch.save({}, saved_model.parent / "x.bin")
    index = saved_model / "pytorch_model.bin.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["lm_head.weight"] = name
    index.write_text(json.dumps(document))
    with pytest.raises(FalconError, match=r"which is no \.bin file of its own folder"):
        with_safetensors(str(saved_model), None)


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_one_line(saved_model, text):
    to_pickles(saved_model, 2)
    (saved_model / "pytorch_model.bin.index.json").write_text(text)
    with pytest.raises(FalconError, match="is no index of weights"):
        with_safetensors(str(saved_model), None)


def test_a_missing_file_of_weights_is_named(saved_model):
    to_pickles(saved_model, 3)
    (saved_model / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(FalconError, match=r"pytorch_model-00002-of-00003\.bin is missing"):
        load_target(TargetRecipe(str(saved_model), device="cpu"))


def test_a_disk_without_room_is_told_before_anything_is_written(saved_model, monkeypatch, home):
    to_pickles(saved_model)
    monkeypatch.setattr(pickled.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(FalconError, match=r"takes 0\.00 GB, and .* has 0\.00 GB free"):
        with_safetensors(str(saved_model), None)
    assert cached(home) == []


@pytest.fixture
def hub(saved_model, monkeypatch, tmp_path):
    """A model hub that has the saved model as org/vicuna; gives its address and the files that were fetched."""
    fetched = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                files = sorted(path.name for path in saved_model.iterdir())
                tree = [{"type": "file", "path": n, "size": (saved_model / n).stat().st_size, "oid": n} for n in files]
                info = {"id": "org/vicuna", "sha": "c" * 40, "siblings": [{"rfilename": name} for name in files]}
                return self.answer(200, json.dumps(tree if "tree" in parts else info).encode())
            path = saved_model / parts[-1]
            if not path.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            if self.command == "GET":
                fetched.append((parts[-2], path.name))
            return self.answer(200, path.read_bytes(), {"ETag": f'"{path.name}"', "X-Repo-Commit": "c" * 40})

        do_HEAD = do_GET

        def answer(self, status, body, more=None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield fetched
    server.shutdown()


def generated():
    words = [
        "generate",
        "--raw",
        "--target",
        "org/vicuna",
        "--revision",
        "v1.3",
        "--max-new-tokens",
        "4",
        "--json",
        "word3",
    ]
    done = subprocess.run([sys.executable, "-m", "falcon_cli", *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["token_ids"], done.stderr


def test_a_model_of_the_hub_is_fetched_without_what_is_no_weight(saved_model, hub, monkeypatch):
    to_pickles(saved_model, 2)
    (saved_model / "training_args.bin").write_bytes(b"pickle")
    (saved_model / "README.md").write_text("a model")
    ids, told = generated()
    assert "converting org--vicuna to safetensors (once)" in told
    weights = {name for _, name in hub if name.endswith(".bin")}
    assert weights == {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}
    assert "README.md" not in {name for _, name in hub}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again, told = generated()
    assert (again, "converting" in told) == (ids, False)


def test_a_tokenizer_that_is_a_sentencepiece_model_alone_is_read(saved_model):
    """As LLaMA-2's and Vicuna's were published: tokenizer.model, and no tokenizer.json."""
    import sentencepiece

    (saved_model / "tokenizer.json").unlink()
    (saved_model / "text").write_text("\n".join(f"word{number} is {number * 7} in the end" for number in range(99)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(saved_model / "text"),
        model_prefix=str(saved_model / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (saved_model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **marks}))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(saved_model / "tokenizer.model"))
    ids = load_tokenizer(TargetRecipe(str(saved_model)))("word5 in the end é").input_ids
    assert ids == [1, *pieces.encode("word5 in the end é")]
