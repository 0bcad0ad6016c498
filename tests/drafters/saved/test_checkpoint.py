import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from falcon_cli.drafters.saved.checkpoint import (
    SHIPPED,
    load_drafter,
    save_drafter,
    shipped,
)
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.errors import FalconError
from falcon_cli.sources import built_in_targets, sha256_of
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

VOCAB = 48


def words(count=VOCAB, prefix="word", added=()):
    names = [*(f"{prefix}{token}" for token in range(count)), *added]
    vocabulary = {name: token for token, name in enumerate(names)}
    return SimpleNamespace(
        get_vocab=lambda: vocabulary, get_added_vocab=lambda: {name: vocabulary[name] for name in added}
    )


def loaded(model, tokenizer=None, name="tiny"):
    return LoadedTarget(name, TargetModel(model), tokenizer or words(), frozenset(), "fp32")


@pytest.fixture(scope="module")
def target(tiny_model):
    return loaded(tiny_model("llama-gqa", dtype=torch.float32))


@pytest.fixture
def folder(tmp_path, target, tiny_network):
    """A drafter of 5 tokens a pass may choose from, with a map."""
    save_drafter(tmp_path / "drafter", tiny_network(target.model.decoder, k=3), torch.arange(0, 48, 3), target, {})
    return tmp_path / "drafter"


@pytest.mark.parametrize("form", [{"k": 1, "mixer": "linear"}, {"k": 4, "mixer": "position", "normalise": False}, {}])
@pytest.mark.parametrize("vocabulary_W", [None, torch.tensor([0, 5, 47])])
def test_what_was_saved_is_loaded(tmp_path, target, tiny_network, form, vocabulary_W):
    network = tiny_network(target.model.decoder, **form)
    save_drafter(tmp_path / "one", network, vocabulary_W, target, {"steps": 7, "command": "falcon distill"})
    saved = load_drafter(tmp_path / "one", target)
    assert saved.network.recipe == network.recipe
    assert saved.about["training"] == {"steps": 7, "command": "falcon distill"}
    assert (saved.vocabulary_W is None) == (vocabulary_W is None)
    assert vocabulary_W is None or torch.equal(saved.vocabulary_W, vocabulary_W)
    held = saved.network.state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(held[name], value, rtol=1e-3, atol=1e-3)  # fp16 on disk
        assert held[name].dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in saved.network.parameters())
    assert "falcon distill" in (tmp_path / "one" / "README.md").read_text()


def test_weights_come_in_the_targets_dtype(folder, tiny_model):
    target = loaded(tiny_model("llama-gqa", dtype=torch.bfloat16))
    assert {p.dtype for p in load_drafter(folder, target).network.parameters()} == {torch.bfloat16}


def test_saving_again_replaces_the_folder_whole(folder, target, tiny_network):
    (folder / "tree.json").write_text("{}")
    save_drafter(folder, tiny_network(target.model.decoder, k=1), None, target, {})
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert load_drafter(folder, target).about["k"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["drafter"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "hydra"}, "is no medusa or eagle or falcon drafter: the method in its config.json is hydra"),
        ({"method": "eagle"}, "says eagle, but its network is not EAGLE's"),
        ({"method": "medusa"}, "with draft_vocab_size under network"),
        ({"format": 2}, "has format 2, this falcon reads 1: update falcon"),
        ({"k": 2}, "must hold k, and the same k"),
        ({"k": None}, "must hold k, and the same k"),
        ({"network": None}, "must hold k, and the same k"),
        ({"network": {"k": 3}}, "with mixer, normalise, start, chained, draft_vocab_size under network"),
        ({"hidden_size": 64}, "is for tiny, of hidden size 64, and tiny has 32: distill one"),
        ({"vocab_hash": "0", "vocab_hash_2": "0"}, "whose tokens are not those of tiny"),
        ({"draft_vocab_size": 4}, "does not hold the draft vocabulary of 4 tokens"),
        ({"draft_vocab_size": 0}, "does not hold the draft vocabulary of 0 tokens"),
        ({"weights_sha256": "0"}, "is cut short, damaged or another drafter's"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, target, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FalconError, match=message) as caught:
        load_drafter(folder, target)
    assert "\n" not in str(caught.value)


def test_a_mixer_that_nobody_knows_is_refused(folder, target):
    path = folder / "config.json"
    about = json.loads(path.read_text())
    about["network"]["mixer"] = "blender"
    path.write_text(json.dumps(about))
    with pytest.raises(FalconError, match=r"config.json: network: mixer must be one of"):
        load_drafter(folder, target)


def rewrite(folder, change):
    """Change the tensors, and the digest with them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    about = json.loads((folder / "config.json").read_text())
    about["weights_sha256"] = sha256_of(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop("norm_D"), "norm_D has shape nothing, this target's drafter needs"),
        (lambda held: held.update(extra=torch.zeros(2)), r"extra has shape \[2\], this target's drafter needs nothing"),
        (lambda held: held.update(norm_D=torch.zeros(31)), r"norm_D has shape \[31\], .* needs \[32\]"),
        (lambda held: held["norm_D"].fill_(float("nan")), "norm_D holds values that are not finite"),
        (lambda held: held.pop("vocabulary"), "does not hold the draft vocabulary of 16 tokens"),
        (lambda held: held["vocabulary"].add_(3), "the draft vocabulary must be ascending ids below 48"),
        (lambda held: held["vocabulary"].sub_(1), "the draft vocabulary must be ascending ids below 48"),
        (lambda held: held["vocabulary"][:2].fill_(1), "the draft vocabulary must be ascending ids below 48"),
        (lambda held: held.update(vocabulary=torch.ones(16)), "does not hold the draft vocabulary"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(folder, target, change, message):
    rewrite(folder, change)
    with pytest.raises(FalconError, match=message):
        load_drafter(folder, target)


def test_a_target_with_other_heads_or_tokens_is_refused(folder, tiny_model):
    with pytest.raises(FalconError, match=r"has shape .* needs"):
        load_drafter(folder, loaded(tiny_model("llama-mha", dtype=torch.float32)))
    with pytest.raises(FalconError, match="whose tokens are not those of other"):
        load_drafter(folder, loaded(tiny_model(dtype=torch.float32), words(prefix="mot"), "other"))


def test_missing_and_broken_files_are_named(folder, target, tmp_path):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(FalconError, match=r"model.safetensors is cut short, damaged"):
        load_drafter(folder, target)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FalconError, match=r"model.safetensors cannot be read \(No such file"):
        load_drafter(folder, target)
    (folder / "config.json").write_text("{")
    with pytest.raises(FalconError, match=r"config.json is not JSON"):
        load_drafter(folder, target)
    (folder / "config.json").write_text("[]")
    with pytest.raises(FalconError, match=r"the method in its config.json is None"):
        load_drafter(folder, target)
    (folder / "config.json").unlink()
    with pytest.raises(FalconError, match=r"config.json cannot be read"):
        load_drafter(folder, target)
    with pytest.raises(FalconError, match=r"no drafter at .*nowhere: name a folder made by falcon distill"):
        load_drafter(tmp_path / "nowhere", target)


def test_a_file_that_only_looks_whole_is_refused(folder, target):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    about = json.loads((folder / "config.json").read_text())
    about["weights_sha256"] = sha256_of(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(FalconError, match="is no safetensors file"):
        load_drafter(folder, target)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("rows", [48, 64])
def test_a_target_with_more_added_tokens_or_rows_keeps_its_drafter(folder, tiny_model, old, rows):
    path = folder / "config.json"
    about = json.loads(path.read_text())
    if old:
        del about["vocab_hash_2"]
    path.write_text(json.dumps(about))
    model = tiny_model("llama-gqa", dtype=torch.float32, vocab_size=rows)
    assert load_drafter(folder, loaded(model, words(added=("[PAD]",))))
    for other in (words(47, added=("[PAD]",)), words(prefix="other")):
        with pytest.raises(FalconError, match="whose tokens are not those of tiny"):
            load_drafter(folder, loaded(model, other))


def test_shipped_drafters_are_those_of_built_in_targets():
    assert {target for target, _ in SHIPPED} <= built_in_targets().keys()
    assert {method for _, method in SHIPPED} <= TRAINED.keys()
    assert shipped("other/model") is None


def test_a_drafter_is_shipped_once_its_folder_is_there(monkeypatch, tmp_path, folder):
    (tmp_path / "shipped").mkdir()
    monkeypatch.setattr("falcon_cli.drafters.saved.checkpoint.__file__", str(tmp_path / "checkpoint.py"))
    name = "smollm2-135m-instruct"
    assert shipped(name) is None
    folder.rename(tmp_path / "shipped" / SHIPPED[name, "falcon"])
    assert shipped(name) == tmp_path / "shipped" / SHIPPED[name, "falcon"]
    assert shipped(name, "eagle") is None
