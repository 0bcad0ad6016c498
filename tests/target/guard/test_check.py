"""Each test of a mistake makes one on purpose, and sees that the guard finds it."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionMaskInterface, AutoModelForCausalLM, BloomConfig, MambaConfig

from falcon_cli.attention.backend import implementation
from falcon_cli.attention.masks import tree_mask
from falcon_cli.errors import FalconError
from falcon_cli.native import layer, swap, weights
from falcon_cli.native.build import load_kernels
from falcon_cli.studies.families import built
from falcon_cli.target.forward.graphs import FixedReader
from falcon_cli.target.forward.own import CausalForward
from falcon_cli.target.guard import check as guard
from falcon_cli.target.guard.check import check_reading, why_refused


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(guard, "_KNOWN", {})


def check(model, kind=None, compiled=False):
    if kind is not None:
        load_kernels()
    return check_reading("mine", model, "sdpa", kind, compiled)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("how", [{}, {"compiled": True}, {"kind": "fp32"}])
def test_a_model_that_is_read_rightly_passes_in_silence(family, how, capsys):
    assert check(built(family), **how) is False
    assert "mine" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bf16", "bf16x2", "int8", "int4", "file"])
def test_rounded_weights_pass(kind):
    assert check(built("llama"), kind) is False
    assert check(built("gemma2"), kind) is False


@pytest.mark.parametrize("kind", [None, "fp32"])
def test_a_model_whose_attention_takes_no_tree_is_read_by_branches_and_one_line_says_so(kind, capsys):
    assert check(built("bloom"), kind) is True
    line = "mine: the attention of a BloomForCausalLM takes no tree, so drafts are read branch by branch\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("kind", [None, "fp32"])
def test_a_class_is_checked_once(monkeypatch, kind):
    made, random_twin = [], guard.random_twin
    monkeypatch.setattr(guard, "random_twin", lambda model: made.append(1) or random_twin(model))
    check(built("llama"), kind)
    check(built("llama"), kind)
    assert len(made) == 1
    check(built("llama"), kind, compiled=True)
    check(built("qwen2"), kind)
    assert len(made) == 3


def test_a_mask_without_the_window_is_not_used(monkeypatch):
    def boundless(*given, **named):
        tree_mask(*given, **named)

    masks = AttentionMaskInterface._global_mapping
    monkeypatch.setitem(masks, implementation("sdpa"), boundless)
    assert check(built("gemma2")) is True  # its own attention still has it
    assert check(built("llama")) is False  # it has none


def leave_out(monkeypatch, multiplier):
    """Let falcon's forward forget a multiplier of the logits."""
    reads = CausalForward.__call__

    def call(self, *given, **named):
        logits_TV, features_TD = reads(self, *given, **named)
        return logits_TV * multiplier, features_TD

    monkeypatch.setattr(CausalForward, "__call__", call)


def test_a_forgotten_multiplier_is_refused(monkeypatch):
    model = built("granite")
    assert check(model) is False
    guard._KNOWN.clear()
    leave_out(monkeypatch, 1.02)
    with pytest.raises(
        FalconError, match=r"^mine: falcon cannot read a GraniteForCausalLM as its own class does \(logits differ by"
    ) as error:
        check(model)
    assert "\n" not in str(error.value)


def test_layers_that_compute_something_else_are_not_for_the_kernels(monkeypatch):
    monkeypatch.setattr(swap, "FAMILIES", {*swap.FAMILIES, "Granite"})  # they know nothing of its multipliers
    model = built("granite")
    model.config.residual_multiplier = 0.22
    line = "mine: falcon's kernels read a GraniteForCausalLM otherwise than its own class: use --kernels torch"
    with pytest.raises(FalconError, match=f"^{line}$"):
        check(model, "fp32")
    assert check(model) is False


def test_linear_layers_that_a_class_looks_into_are_not_for_the_kernels():
    with pytest.raises(FalconError, match=r"use --kernels torch"):
        check(built("longcat_flash"), "fp32")


def test_kernels_that_hold_other_weights_are_found(monkeypatch):
    int8 = weights._int8

    def off(weight_OI):
        quantised_OI, scale_O = int8(weight_OI)
        return quantised_OI, 1.2 * scale_O

    monkeypatch.setattr(weights, "_int8", off)
    with pytest.raises(FalconError, match=r"^mine: int8 kernels hold other weights than the model's: .*use fp32$"):
        check(built("llama"), "int8")


def test_kernels_whose_rounded_weights_are_wrong_in_one_place_are_found(monkeypatch):
    gate_up = layer.packed_gate_up

    def off(gate, up, kind):
        matrix = gate_up(gate, up, kind)
        if kind == "int8":
            matrix.scale_O.mul_(1.2)
        return matrix

    monkeypatch.setattr(layer, "packed_gate_up", off)
    with pytest.raises(FalconError, match=r"^mine: int8 kernels differ from fp32 ones by \d.*: .*use fp32$"):
        check(built("llama"), "int8")


def test_a_files_blocks_are_tried_in_formats_of_files(monkeypatch):
    tried = []
    packed = layer.packed

    def note(linears, format):
        tried.extend(linear.tensor.kind for linear in linears if format == "file")
        return packed(linears, format)

    monkeypatch.setattr(layer, "packed", note)
    assert check(built("llama"), "file") is False
    assert set(tried) == {"Q8_0", "F16"}  # 48 inputs make no whole blocks


def test_kernels_that_take_a_files_blocks_for_another_matrix_are_found(monkeypatch):
    gate_up = layer.packed_gate_up
    monkeypatch.setattr(
        layer,
        "packed_gate_up",
        lambda gate, up, kind: gate_up(up, gate, kind) if kind == "file" else gate_up(gate, up, kind),
    )
    with pytest.raises(FalconError, match=r"^mine: file kernels differ from fp32 ones by \d.*: .*use fp32$"):
        check(built("llama"), "file")


def test_fixed_shapes_that_forget_the_tree_are_found(monkeypatch):
    fixed = FixedReader._fixed

    def flat(self, view, rows, cache):
        position_T, slot_T, seen_TS, slot_position_S = fixed(self, view, rows, cache)
        seen_TS[:, : cache.length + 1] = True
        seen_TS[1:, cache.length + 1] = True  # the root's first child, for all
        return position_T, slot_T, seen_TS, slot_position_S

    monkeypatch.setattr(FixedReader, "_fixed", flat)
    with pytest.raises(FalconError, match=r"^mine: in fixed shapes a LlamaForCausalLM reads .*: leave out --compile$"):
        check(built("llama"), compiled=True)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mamba", "a MambaForCausalLM has recurrent layers, whose state cannot go back when a draft is refused"),
        ("lfm2", "a Lfm2ForCausalLM has recurrent layers, whose state cannot go back when a draft is refused"),
        ("openai-gpt", r"falcon cannot read a OpenAIGPTLMHeadModel .* \(its forward keeps no keys and values\)"),
    ],
)
@pytest.mark.parametrize("kind", [None, "fp32"])
def test_refusals_say_why(family, reason, kind):
    with pytest.raises(FalconError, match=f"^mine: {reason}$"):
        check(built(family), kind)


def test_an_encoder_and_decoder_are_refused_as_such():
    model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=True))
    assert why_refused(model, "whatever") == (
        "a SimpleNamespace reads by an encoder, and falcon decodes by decoders alone"
    )


class TestOfAClassThatCannotBeShrunk:
    @pytest.fixture(autouse=True)
    def _no_twin(self, monkeypatch):
        monkeypatch.setattr(guard, "random_twin", lambda model: (None, torch.float32))

    def small(self, config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AutoModelForCausalLM.from_config(config).eval()

    @pytest.mark.parametrize("family", ["llama-gqa", "mistral-window", "qwen3"])
    def test_the_real_model_is_asked_and_left_as_it_was(self, tiny_model, family):
        model = tiny_model(family)
        assert check(model) is False
        assert model.config._attn_implementation == "sdpa"
        hooked = (model.get_decoder(), model.get_output_embeddings())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in hooked)

    def test_it_may_take_branches(self):
        assert check(self.small(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4))) is True

    def test_it_may_be_misread(self, tiny_model, monkeypatch):
        leave_out(monkeypatch, 1.02)
        with pytest.raises(FalconError, match=r"^mine: falcon cannot read a LlamaForCausalLM as its own class does"):
            check(tiny_model())

    def test_it_may_be_recurrent(self):
        model = self.small(MambaConfig(vocab_size=64, hidden_size=32, state_size=8, num_hidden_layers=2))
        with pytest.raises(FalconError, match=r"^mine: a MambaForCausalLM has recurrent layers"):
            check(model)
