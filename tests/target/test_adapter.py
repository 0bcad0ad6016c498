"""A LoRA-tuned target."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from falcon_cli.errors import FalconError
from falcon_cli.target.adapter import with_adapter

IDS = torch.arange(9)[None]


@pytest.fixture
def tuned(tiny_model, tmp_path):
    """An adapter's folder, and what the tuned model says."""
    peft = get_peft_model(
        tiny_model(), LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    peft = peft.double().eval()
    peft.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        return tmp_path / "adapter", peft(IDS).logits


def test_the_adapter_is_merged_into_the_weights(tuned, tiny_model):
    folder, expected = tuned
    plain = tiny_model()
    with torch.no_grad():
        before = plain(IDS).logits
        merged = with_adapter(plain, str(folder))
        torch.testing.assert_close(merged(IDS).logits, expected)
    assert not torch.allclose(before, expected)
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_an_adapter_of_another_model_is_one_clear_line(tuned, tiny_model):
    with pytest.raises(FalconError, match=r"adapter .* does not fit this target"):
        with_adapter(tiny_model(hidden_size=16, num_attention_heads=2, num_key_value_heads=1), str(tuned[0]))


def test_an_adapter_that_is_not_there_is_one_clear_line(tiny_model, tmp_path):
    with pytest.raises(FalconError, match=r"adapter .*none does not fit this target") as caught:
        with_adapter(tiny_model(), str(tmp_path / "none"))
    assert "\n" not in str(caught.value)
