"""Small random targets of many families, from `falcon distill` to a drafter, and to ids that are plain decoding's.

What differs from Llama on the way: the final norm, a biased head, scaled and capped logits, projections, experts,
latent attention, learned positions, and attention that takes no tree.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.corpus.answers import greedy_answers
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.extract import extract
from falcon_cli.distill.run import distill
from falcon_cli.distill.training.log import read_log
from falcon_cli.distill.trial import try_student
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.methods.context import DraftingContext
from falcon_cli.methods.grammar import choose
from falcon_cli.recipe.distill import (
    AnswersRecipe,
    CacheRecipe,
    CorpusRecipe,
    DistillRecipe,
    DraftModelRecipe,
    LossRecipe,
    MedusaRecipe,
    NetworkRecipe,
    TrainingRecipe,
)
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.guard.shrink import shrunk
from falcon_cli.target.load import load_target

CONTEXT, NEW, STEPS = 256, 16, 3
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "granite": {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.25},
    "olmo": {},
    "olmo2": {},
    "phi": {},
    "stablelm": {},
    "gpt2": {},
    "gpt_neo": {},
    "gpt_neox": {},
    "opt": {},
    "mixtral": {},
    "qwen3_moe": {},
    "deepseek_v3": {"q_lora_rank": None},
    "starcoder2": {},
    "gpt_oss": {},
    "bloom": {},
    "minicpm3": {},
}
METHODS = {
    "falcon": {"network": NetworkRecipe(k=2, mixer="linear", draft_vocab_size=100)},
    "eagle": {"network": NetworkRecipe(k=1, mixer="linear", start="own")},
    "medusa": {"medusa": MedusaRecipe(k=3)},
    "sps": {"draft_model": DraftModelRecipe(layers=(0,))},
}
WHOLE_WAY = ("llama", "gemma2", "granite", "cohere", "olmo", "phi", "gpt2", "opt", "mixtral", "deepseek_v3", "bloom")
PAIRS = [(family, "falcon") for family in WHOLE_WAY] + [
    (family, method) for family in ("gemma2", "phi") for method in ("eagle", "medusa", "sps")
]
"""Each of them differs from Llama in another way; every family's teacher and trial is tested below."""


@pytest.fixture(scope="module")
def saved(byte_tokenizer, tmp_path_factory):
    """The folder of a small random target of a family."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig

    made: dict[str, str] = {}

    def build(family: str) -> str:
        if family not in made:
            config = shrunk(CONFIG_MAPPING[family](**FAMILIES[family], tie_word_embeddings=False))
            for name in POSITIONS:
                if hasattr(config, name):
                    setattr(config, name, CONTEXT)
            config.vocab_size = len(byte_tokenizer)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = AutoModelForCausalLM.from_config(config)
                for parameter in model.parameters():
                    noise = 0.3 * torch.randn_like(parameter)
                    parameter.data = noise if parameter.dim() > 1 else parameter.data + noise
            model.generation_config = GenerationConfig(pad_token_id=0)
            folder = tmp_path_factory.mktemp("families") / family
            model.save_pretrained(folder)
            byte_tokenizer.save_pretrained(folder)
            made[family] = str(folder)
        return made[family]

    return build


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    """A few short dialogues."""
    path = tmp_path_factory.mktemp("corpus") / "dialogues.jsonl"
    colours = ("red", "green", "blue", "grey", "black", "white", "pink", "gold")
    path.write_text(
        "".join(
            json.dumps({"id": colour, "messages": [{"role": "user", "content": f"A colour, please ({number})?"},
                                                   {"role": "assistant", "content": f"It is {colour} in the end."}]})
            + "\n"
            for number, colour in enumerate(colours)
        )
    )  # fmt: skip
    return str(path)


@pytest.fixture
def recipe_of(saved, dialogues, tmp_path):
    """A recipe: `recipe_of("gemma2", "falcon", steps=3)`."""

    def build(family: str, method: Any = "falcon", steps: int = STEPS, **changes: Any) -> DistillRecipe:
        recipe = DistillRecipe(
            method=method,
            target=TargetRecipe(saved(family)),
            corpus=CorpusRecipe((dialogues,), held_out=2, min_answer_tokens=4, exclude=()),
            cache=CacheRecipe(shard_tokens=200, top=8),
            training=TrainingRecipe(
                steps=steps, batch_tokens=256, learning_rate=0.01, measure_steps=steps, decode_prompts=1
            ),
            out=str(tmp_path / "run"),
            **METHODS[method],
        )
        return replace(recipe, **changes)

    return build


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_a_distilled_drafter_drafts_and_the_ids_are_plain_decoding_s(recipe_of, tmp_path, family, method):
    summary = distill(recipe_of(family, method), [])
    assert summary["steps"] == STEPS
    assert all(line["loss"] == line["loss"] < 1e4 for line in read_log(tmp_path / "run" / "metrics.jsonl"))
    target = load_target(TargetRecipe(recipe_of(family).target.model, threads=1))
    small = load_target(TargetRecipe(summary["drafter"], threads=1)) if method == "sps" else None
    drafter = choose(method).build(DraftingContext(target, small, summary["drafter"]))
    accepted = 0
    for seed in range(3):
        prompt = torch.randint(3, 200, (11,), generator=torch.Generator().manual_seed(seed)).tolist()
        drafted = complete(target.model, drafter, prompt, Stop((), NEW))
        plain = complete(target.model, Autoregressive(target.model.device), prompt, Stop((), NEW))
        assert drafted.ids == plain.ids
        assert max(cycle.nodes for cycle in drafted.cycles) > 1
        accepted += sum(cycle.accepted for cycle in drafted.cycles)
    if method == "sps":
        assert accepted > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_says_what_the_class_s_own_forward_says(saved, family):
    target = load_target(TargetRecipe(saved(family), kernels="torch"))
    texts = [torch.randint(3, 200, (length,), generator=torch.Generator().manual_seed(length)) for length in (9, 23)]
    samples = [Sample(str(len(text)), tuple(text.tolist()), (False, *[True] * (len(text) - 1))) for text in texts]
    read = dict(extract(target.model, samples, 8, torch.float32))
    with target.model.plain_transformers() as model, torch.inference_mode():
        for number, text in enumerate(texts):
            own = model(input_ids=text[None]).logits[0].log_softmax(-1).topk(8)
            torch.testing.assert_close(read[number].top_logprobs_LZ, own.values, rtol=1e-4, atol=1e-4)
            assert torch.equal(read[number].top_ids_LZ[:, 0].long(), own.indices[:, 0])


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(WHOLE_WAY)))
def test_the_student_of_every_other_family_passes_its_trial(recipe_of, family):
    recipe = recipe_of(family)
    student = try_student(recipe, load_target(replace(recipe.target, kernels="torch")))
    assert student.k == 2


@pytest.mark.parametrize("family", ["gemma2", "phi"])
def test_the_loss_goes_down(recipe_of, tmp_path, family):
    loss = LossRecipe(feature=0.1, kl=1.0, ce=0.1)
    distill(recipe_of(family, steps=25, loss=loss, features="online", csgd=False), [])
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "metrics.jsonl")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bloom", "gpt_neo", "gpt_oss", "minicpm3"])
def test_answers_are_plain_decoding_s_padded_or_one_by_one(saved, family):
    target = load_target(TargetRecipe(saved(family), kernels="torch"))
    drawn = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 200, (length,), generator=drawn).tolist() for length in (3, 4, 9, 11, 14)]
    answers = dict(greedy_answers(target, prompts, 12, 3))
    plain = Autoregressive(target.model.device)
    for number, prompt in enumerate(prompts):
        assert answers[number] == complete(target.model, plain, prompt, Stop(target.stop_ids, 12)).ids


def test_a_target_answers_its_own_corpus(recipe_of):
    recipe = recipe_of("gemma2", answers="target", generation=AnswersRecipe(max_new_tokens=12, batch_size=4))
    assert distill(recipe, [])["steps"] == STEPS
