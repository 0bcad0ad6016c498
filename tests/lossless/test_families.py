"""Small random models of many families: whatever the drafter does, the ids are those of the class's own `generate`.

One family for each way in which a model can be unlike Llama, with options that its default configuration leaves off.
The sizes are those of the guard's twin: windows of 7 tokens, chunks of 8, so that each text crosses them.
"""

from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch

from falcon_cli.core import Draft
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.methods.context import DraftingContext
from falcon_cli.methods.grammar import choose
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.target.guard.check import check_reading
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

CPU = torch.device("cpu")
NEW, CHUNK, VOCAB = 26, 5, 64
MUP = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.5, "logits_scaling": 8.0}
BIASED = {"attention_bias": True, "mlp_bias": True}
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 1024}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
BRANCHES = {"llama4_text", "bloom", "falcon"}
"""Families whose attention takes no tree; they are not compiled either."""
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": BIASED,
    "granite": {**MUP, "attention_bias": True},
    "gemma2": {},  # scores capped, windows in every other layer
    "gemma3_text": {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": PLAIN}},
    "gpt_oss": {},  # sinks, windows, experts
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
    "nemotron": {"num_key_value_heads": 8, **BIASED},
    "stablelm": {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True},
    "phi": {"qk_layernorm": True},
    "olmo2": {"attention_bias": True},
    "cohere2": {"attention_bias": True, "logit_scale": 0.5},  # windows in three layers of four
    "llama4_text": {"floor_scale": 4096, "attn_scale": 0.5},  # chunks; scores that grow with the position
    "deepseek_v3": {"q_lora_rank": None},  # keys and values of two sizes
    "mixtral": {"sliding_window": 4096},
    "bloom": {"apply_residual_connection_post_layernorm": True},
    "roberta": {"is_decoder": True},
    "starcoder2": {"sliding_window": 4096, "use_bias": True, "rope_parameters": YARN},
    "smollm3": {**BIASED, "use_sliding_window": True, "sliding_window": 4096},  # some layers without positions
    "granitemoehybrid": {**MUP, "layer_types": ["full_attention"] * 32, "position_embedding_type": "rope"},
    "mimo_v2_flash": {"add_full_attention_sink_bias": True, "attention_value_scale": 0.7},
    "falcon": {"new_decoder_architecture": True, "alibi": False, "bias": True},
}


class Said(NamedTuple):
    """A small model, and what its own `generate` says."""

    model: Any
    prompt: list[int]
    ids: list[int]


def said(model: Any) -> Said:
    """Its answer to the first of some prompts that is answered by more than a few tokens over and over."""
    for seed in range(40):
        prompt = torch.randint(3, VOCAB, (13,), generator=torch.Generator().manual_seed(seed))
        prompt[7:] = prompt[:6]  # something to copy
        ids = model.generate(prompt[None], attention_mask=torch.ones(1, 13), max_new_tokens=NEW, do_sample=False)
        if len(set(ids[0, 13:].tolist())) > 4:
            break
    return Said(model, prompt.tolist(), ids[0, 13:].tolist())


@cache
def whole(family: str) -> Any:
    """The model of default size, without weights."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family](**FAMILIES[family], tie_word_embeddings=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@cache
def spoken(family: str) -> Said:
    """The small one, in float64 where its class runs in it."""
    from transformers import GenerationConfig

    model, _ = made_twin(whole(family))
    model.generation_config = GenerationConfig(pad_token_id=0)
    return said(model)


class HalfRight:
    """Drafts trees; half of the tokens on the way of the true answer are the true ones."""

    def __init__(self, answer, random_parents):
        self.answer, self.random_parents = answer, random_parents
        self.dice, self.emitted, self.accepted = torch.Generator().manual_seed(3), 0, []

    def start(self, prompt_L, scores):
        self.emitted = 0

    def observe(self, verdict, scores):
        self.emitted += len(verdict.accepted) + 1
        self.accepted.append(len(verdict.accepted))

    def roll(self, stop):
        return int(torch.randint(stop, (), generator=self.dice))

    def propose(self, token, room):
        parents = self.random_parents(1 + self.roll(9 if room else 1), self.dice, max_depth=room)
        tokens, true, depth = [token], {0}, [0]
        for node, parent in enumerate(parents[1:], 1):
            depth.append(depth[parent] + 1)
            right = parent in true and self.roll(2) == 1
            tokens.append(self.answer[self.emitted + depth[node]] if right else self.roll(VOCAB))
            true |= {node} if right else set()
        return Draft.tree(tokens, parents, CPU)


def check(target, said, random_parents):
    kit = DraftingContext(LoadedTarget("small", target, None, frozenset(), "fp32"))
    drafters = {name: choose(name).build(kit) for name in ("ar", "pld", "lookahead")}
    drafters["half"] = HalfRight(said.ids, random_parents)
    got = {name: complete(target, each, said.prompt, Stop((), NEW)).ids for name, each in drafters.items()}
    assert got == dict.fromkeys(drafters, said.ids)
    assert 0 < sum(drafters["half"].accepted) < NEW - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_texts_would_show_a_mistake(family):
    assert len(set(spoken(family).ids)) > 4


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_equal_generates_on_torchs_operators(family, random_parents):
    branches = check_reading(family, whole(family), "sdpa", None, compiled=False)
    assert branches == (family in BRANCHES)
    target = TargetModel(deepcopy(spoken(family).model), chunk=CHUNK, branches=branches)
    check(target, spoken(family), random_parents)


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_equal_generates_on_the_kernels(family, random_parents):
    """The whole model, or its linear layers."""
    load_kernels()
    single = deepcopy(spoken(family).model).float()
    expected = said(single)
    layers = swap_model(single, "fp32")
    assert layers.exact == (family == "llama")
    target = TargetModel(single, chunk=CHUNK, native=layers, branches=family in BRANCHES)
    check(target, expected, random_parents)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in BRANCHES])
def test_ids_equal_generates_in_fixed_shapes(family, random_parents):
    target = TargetModel(deepcopy(spoken(family).model), chunk=CHUNK, compiled=True)
    target.graphs.run_eagerly()
    check(target, spoken(family), random_parents)
