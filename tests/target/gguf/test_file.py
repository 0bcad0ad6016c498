import pytest

from falcon_cli.errors import FalconError
from falcon_cli.target.gguf.file import GgufFile


def test_a_file_says_what_is_in_it(write_gguf, tiny_model, tmp_path):
    file = GgufFile(write_gguf(tmp_path / "m.gguf", tiny_model(), keys={"llama.rope.freq_base": 5.0}))
    assert (file.architecture, file.own("rope.freq_base"), file.own("no.such", 7)) == ("llama", 5.0, 7)
    assert file.get("tokenizer.ggml.merges") == ["a b", "ab c"]
    assert {"block_count", "rope.freq_base"} <= set(file.own_names())
    assert "blk.1.ffn_up.weight" in file.tensors
    assert str(file.refusal("it is odd")) == f"{tmp_path / 'm.gguf'}: it is odd"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("general.type", "adapter", "general.type is adapter: give the file of a whole model"),
        ("general.type", "mmproj", "general.type is mmproj: give the file of a whole model"),
        ("split.count", 3, "split.count is 3: join the parts first"),
    ],
)
def test_a_part_of_a_model_is_refused(key, value, says, write_gguf, tiny_model, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny_model(), keys={key: value})
    with pytest.raises(FalconError, match=says):
        GgufFile(path)


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_in_one_part_is_whole(count, write_gguf, tiny_model, tmp_path):
    GgufFile(write_gguf(tmp_path / "m.gguf", tiny_model(), keys={"split.count": count, "general.type": "model"}))
