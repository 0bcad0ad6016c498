import pytest
import torch

from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.gguf.end_tokens import end_tokens
from falcon_cli.target.gguf.file import GgufFile
from falcon_cli.target.load import load_target


def keys(special, kind=3, **ids):
    tokens = [*special, *(f"w{number}" for number in range(48 - len(special)))]
    told = {"tokens": tokens, "token_type": [kind] * len(special) + [1] * (48 - len(special)), "merges": []}
    told |= {"bos_token_id": None, "eos_token_id": None, **{f"{name}_token_id": token for name, token in ids.items()}}
    return {f"tokenizer.ggml.{name}": value for name, value in told.items()}


@pytest.mark.parametrize(
    ("special", "kind", "ids", "expected"),
    [
        (["a", "b", "c", "d"], 3, {"eos": 1}, [1]),
        (["a", "b", "c", "d"], 3, {"eos": 1, "eot": 3, "eom": 2}, [1, 3, 2]),
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 3, {"eos": 0}, [0, 2]),
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 1, {"eos": 0}, [0]),  # no control tokens
        (["<|eot_id|>", "<end_of_turn>", "<|eom_id|>", "<|end|>"], 3, {}, [0, 1, 2, 3]),
        (["<|end|>", "<|return|>", "<|call|>"], 3, {}, [1, 2]),  # there <|end|> only ends a part
        (["</s>", "<|tool_response>"], 3, {}, [1]),
        (["<｜end▁of▁sentence｜>"], 3, {}, [0]),
        (["a"], 3, {"eos": 99}, []),
    ],
)
def test_end_tokens_are_the_files_own_and_llama_cpps(special, kind, ids, expected, write_gguf, tiny_model, tmp_path):
    assert (
        end_tokens(GgufFile(write_gguf(tmp_path / "m.gguf", tiny_model(), keys=keys(special, kind, **ids)))) == expected
    )


def test_a_target_stops_at_the_end_of_a_turn(write_gguf, tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32)
    path = write_gguf(tmp_path / "m.gguf", model, keys={"tokenizer.ggml.eot_token_id": 44})
    assert load_target(TargetRecipe(model=str(path), device="cpu")).stop_ids == {1, 44}
