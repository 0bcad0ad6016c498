import json

import torch
from safetensors.torch import load_file

from falcon_cli.target.stored import weight_files
from falcon_cli.target.stored.weight_files import WeightFiles


def test_a_small_model_is_one_file(tmp_path):
    files = WeightFiles(tmp_path)
    files.add("a", torch.ones(3))
    files.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_large_one_is_several_with_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "SHARD_BYTES", 100)
    weights = {name: torch.full((10,), float(number)) for number, name in enumerate("abcde")}  # of 40 bytes
    files = WeightFiles(tmp_path)
    for name, weight in weights.items():
        files.add(name, weight)
    files.finish()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    places = [f"model-0000{number}-of-00003.safetensors" for number in (1, 1, 2, 2, 3)]
    assert index["weight_map"] == dict(zip("abcde", places, strict=True))
    for name, place in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / place)[name], weights[name])


def test_weights_that_share_memory_are_written_each(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    weights = {"whole": whole, "tied": whole, "row": whole[1], "turned": whole.T}
    files = WeightFiles(tmp_path)
    for name, weight in weights.items():
        files.add(name, weight)
    files.finish()
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
