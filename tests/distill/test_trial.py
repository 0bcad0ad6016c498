"""A student is tried on its target before anything else: what it tells, and what it refuses in one line."""

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from falcon_cli.distill.students.falcon import FalconStudent
from falcon_cli.distill.students.student import Student
from falcon_cli.distill.trial import made_up, try_student
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DistillRecipe, DraftModelRecipe, MedusaRecipe, NetworkRecipe
from falcon_cli.studies.families import built
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

LINEAR = NetworkRecipe(k=2, mixer="linear", draft_vocab_size=40)
FALCON = DistillRecipe(network=LINEAR)
RECIPES = {
    "falcon": FALCON,
    "eagle": DistillRecipe(method="eagle", network=NetworkRecipe(k=1, mixer="linear", start="own")),
    "medusa": DistillRecipe(method="medusa", medusa=MedusaRecipe(k=3)),
    "sps": DistillRecipe(method="sps", draft_model=DraftModelRecipe(layers=(0,))),
}
BRANCHES = {"bloom", "gpt_neo", "llama4_text"}
FAMILIES = ("llama", "gemma2", "granite", "olmo", "phi", "gpt2", "deepseek_v3", "minicpm3", "roberta", *BRANCHES)


@pytest.fixture
def loaded(byte_tokenizer):
    """A tiny random target of a family: `loaded("gemma2")`."""

    def build(family):
        model = made_twin(built(family))[0].float()
        model.generation_config = GenerationConfig(pad_token_id=0)
        return LoadedTarget(
            family, TargetModel(model, branches=family in BRANCHES), byte_tokenizer, frozenset({2}), "fp32"
        )

    return build


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_of_all_kinds_can_be_distilled(loaded, family, method):
    assert isinstance(try_student(RECIPES[method], loaded(family)), Student)


def test_a_class_that_cannot_be_cut_is_refused(loaded):
    with pytest.raises(FalconError, match=r"cannot be cut from a Gemma4ForCausalLM .*embed_tokens_per_layer.*: name"):
        try_student(RECIPES["sps"], loaded("gemma4_text"))


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("llama", ("k = 2; a LlamaDecoderLayer 32 wide, 4 heads of 8, 4 kv heads, MLP 48 wide",
                   "LlamaRMSNorm undone: features divided by its weight; logits as its LM head gives them")),
        ("gemma2", ("a LlamaDecoderLayer", "divided by 1 + its weight; logits capped at 30")),
        ("olmo", ("OlmoLayerNorm undone: features divided by 1;",)),
        ("phi", ("features less its bias, divided by its weight; logits biased",)),
        ("minicpm3", ("divided by its weight and by 8",)),
        ("cohere", ("logits scaled by 0.0625",)),
    ],
)  # fmt: skip
def test_it_tells_what_the_student_is_and_how_it_reads_the_target(loaded, capsys, family, told):
    try_student(FALCON, loaded(family))
    heard = capsys.readouterr().err
    assert [words for words in told if words not in heard] == []


@pytest.mark.parametrize(("method", "told"), [("medusa", "3 heads, 32 wide"),
                                              ("sps", "a LlamaForCausalLM of the target's layers [0]")])  # fmt: skip
def test_the_other_students_are_told_too(loaded, capsys, method, told):
    try_student(RECIPES[method], loaded("llama"))
    assert told in capsys.readouterr().err


def test_the_student_is_as_if_it_had_not_been_tried(loaded):
    target = loaded("gemma2")
    tried, fresh = try_student(FALCON, target), try_student(FALCON, target)
    assert all(parameter.grad is None for parameter in tried.network.parameters())
    for name, value in tried.network.state_dict().items():
        assert torch.equal(value, fresh.network.state_dict()[name])
    samples = made_up(FALCON, target)
    assert torch.equal(tried.with_vocabulary_of(target, samples).vocabulary_W, tried.vocabulary_W)


@pytest.mark.parametrize("method", ["falcon", "sps"])
def test_logits_made_in_an_unknown_way_are_refused(loaded, method):
    target = loaded("llama")
    own = target.model.head.forward
    target.model.head.forward = lambda rows: own(rows.roll(1, -1)).roll(1, -1)
    target.model.model.forward = _rolled(target.model.model)
    reason = "its class makes logits of its LM head's outputs in a way that falcon cannot learn"
    with pytest.raises(FalconError, match=f"a LlamaForCausalLM cannot be distilled by method {method}: {reason}$"):
        try_student(RECIPES[method], target)


def _rolled(model):
    own = model.forward

    def forward(*rest, **given):
        output = own(*rest, **given)
        output.logits = output.logits.roll(1, -1)
        return output

    return forward


def test_a_teacher_that_says_otherwise_than_its_class_is_refused(loaded, monkeypatch):
    target = loaded("llama")
    own = target.model.forward.features
    monkeypatch.setattr(target.model.forward, "features", lambda *rest, **given: own(*rest, **given).roll(1, 1))
    with pytest.raises(FalconError, match="its log-probabilities in a padded batch are not those of its own forward"):
        try_student(FALCON, target)


@pytest.mark.parametrize(
    ("what", "fault", "line"),
    [
        ("loss", RuntimeError("boom\nand more"), "a loss fails: boom$"),
        ("as_drafter", NotImplementedError("no drafts"), "a draft fails: no drafts$"),
        ("check_saved", RuntimeError("other shapes"), "weights saved and loaded fails: other shapes$"),
    ],
)
def test_what_a_class_raises_is_one_line(loaded, monkeypatch, what, fault, line):
    def fail(*rest, **given):
        raise fault

    monkeypatch.setattr(FalconStudent, what, fail)
    with pytest.raises(FalconError, match=f"^llama: a LlamaForCausalLM cannot be distilled by method falcon: {line}"):
        try_student(FALCON, loaded("llama"))


@pytest.mark.parametrize(
    ("factor", "line"), [(float("nan"), "or its gradient, is not finite"), (0.0, "has no gradient")]
)
def test_a_loss_that_teaches_nothing_is_refused(loaded, monkeypatch, factor, line):
    own = FalconStudent.loss

    def loss(*rest):
        result = own(*rest)
        return replace(result, losses=replace(result.losses, total=result.losses.total * factor))

    monkeypatch.setattr(FalconStudent, "loss", loss)
    with pytest.raises(FalconError, match=f"the loss of random texts,? {line}"):
        try_student(FALCON, loaded("llama"))


def test_where_padding_misleads_the_class_answers_come_one_by_one(loaded, capsys, monkeypatch):
    recipe = DistillRecipe(network=LINEAR, answers="target")
    target = loaded("llama")
    try_student(recipe, target)
    assert "one by one" not in capsys.readouterr().err
    own = target.model.forward.features
    monkeypatch.setattr(
        target.model.forward, "features", lambda *rest, attention_mask=None, **given: own(*rest, **given)
    )
    try_student(recipe, target)
    assert "prompts are answered one by one" in capsys.readouterr().err


def test_the_made_up_texts_hold_the_longest_block_and_fit_the_context(loaded):
    target = loaded("llama")
    for k in (1, 4, 9):
        samples = made_up(DistillRecipe(network=NetworkRecipe(k=k)), target)
        assert all(2 * k < len(sample) < target.model.context_limit for sample in samples)
        assert len({len(sample) for sample in samples}) == 2
