"""A new drafter, or one to continue from, with what it shares with its target."""

from dataclasses import replace

import pytest
import torch

from falcon_cli.distill.objective.vocabulary import coverage
from falcon_cli.distill.students.falcon import FalconStudent
from falcon_cli.drafters.saved.checkpoint import save_drafter
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DistillRecipe, LoraRecipe, NetworkRecipe

LINEAR = NetworkRecipe(k=2, mixer="linear", draft_vocab_size=20)


@pytest.fixture
def student(training_setup):
    """Build a student: `student(draft_vocab_size=20, seed=3)`."""
    setup = training_setup()

    def build(recipe=None, **own):
        recipe = recipe or DistillRecipe(network=replace(LINEAR, **own))
        return FalconStudent.of(recipe, setup.target, setup.samples)

    build.setup = setup
    return build


@pytest.fixture
def saved(student, tmp_path):
    """The folder of an earlier drafter, k = 2, linear, 20 tokens."""
    earlier = student()
    save_drafter(tmp_path / "drafter", earlier.network, earlier.vocabulary_W, student.setup.target, {}, torch.float32)
    return tmp_path / "drafter"


def weights(student):
    return student.network.state_dict()


def same(first, second):
    return all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_a_new_drafter_is_its_seed_s(student):
    first, again, other = (student(DistillRecipe(network=LINEAR, seed=seed)) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert all(parameter.requires_grad for parameter in first.network.parameters())


def test_it_shares_embedding_and_head_with_its_target(student):
    model = student.setup.target.model
    whole, part = student(draft_vocab_size=0), student(draft_vocab_size=20)
    assert whole.vocabulary_W is None
    assert torch.equal(whole.weights.head_WD, model.head.weight)
    assert torch.equal(part.weights.head_WD, model.head.weight[part.vocabulary_W])
    assert torch.equal(part.weights.embedding_VD, model.model.get_input_embeddings().weight)
    assert part.weights.number_V[part.vocabulary_W].tolist() == list(range(20))
    assert int((part.weights.number_V >= 0).sum()) == 20


def test_the_draft_vocabulary_holds_the_stop_tokens_and_the_most_frequent_ones(student):
    part = student(draft_vocab_size=20)
    assert 2 in part.vocabulary_W.tolist()
    assert student(draft_vocab_size=48).vocabulary_W is None


def test_a_draft_vocabulary_larger_than_the_target_s_is_refused(student):
    with pytest.raises(FalconError, match=r"network\.draft_vocab_size is 49, the target's vocabulary 48: ask for less"):
        student(draft_vocab_size=49)


def test_it_describes_its_size_and_what_its_vocabulary_covers(student):
    samples = student.setup.samples
    first = student()
    parameters = sum(parameter.numel() for parameter in first.network.parameters())
    answers = [t for s in samples for t, answer in zip(s.tokens, s.answer, strict=True) if answer]
    share = sum(token in first.vocabulary_W for token in answers) / len(answers)
    _, extended = coverage(samples, first.vocabulary_W)
    start = f"drafter: {parameters / 1e6:.2f}M parameters to learn"
    text = f"{start}, a draft vocabulary of 20 that covers {share:.1%} of held-out answers"
    assert first.describe(samples) == f"{text}, {extended:.1%} with the extra tokens of the text"
    assert share < extended < 1
    assert student(draft_vocab_size=0).describe(samples) == start


def test_an_earlier_drafter_is_continued_with_its_vocabulary(student, saved, capsys):
    setup, first = student.setup, student()
    fewer = FalconStudent.of(
        DistillRecipe(network=LINEAR, init_from=str(saved), seed=9), setup.target, setup.samples[:1]
    )
    assert same(first, fewer)
    assert torch.equal(fewer.vocabulary_W, first.vocabulary_W)
    assert all(parameter.requires_grad for parameter in fewer.network.parameters())
    assert f"continuing from {saved}" in capsys.readouterr().err


def test_an_earlier_drafter_of_another_mixer_is_refused_with_the_keys_to_set(student, saved):
    other = DistillRecipe(network=replace(LINEAR, mixer="time", normalise=False), init_from=str(saved))
    keys = r"set network\.mixer=linear, network\.normalise=True$"
    with pytest.raises(FalconError, match=rf"another form than the recipe: {keys}"):
        student(other)


@pytest.mark.parametrize(
    ("form", "fresh"),
    [
        ({"k": 1, "start": "own", "chained": False}, ""),  # EAGLE out of a Falcon drafter
        ({"k": 1}, "; newly initialised: slot_KD"),
        ({"k": 3}, "; newly initialised: slot_KD"),
        ({"chained": False}, ""),
    ],
)
def test_from_an_earlier_drafter_of_another_form_all_fitting_weights_are_copied(student, saved, capsys, form, fresh):
    first = weights(student())
    other = weights(student(DistillRecipe(network=replace(LINEAR, **form), init_from=str(saved), seed=9)))
    assert f"continuing from {saved}{fresh}\n" in capsys.readouterr().err
    assert "mixer.weight" in other
    for name, value in other.items():
        assert (value.shape == first[name].shape and torch.equal(value, first[name])) or name in fresh


def test_no_drafter_there_is_one_line(student, tmp_path):
    with pytest.raises(FalconError, match=r"no drafter at .*nowhere"):
        student(DistillRecipe(network=LINEAR, init_from=str(tmp_path / "nowhere")))


def test_with_lora_only_the_changes_learn_and_the_seed_draws_them(student, saved):
    recipe = DistillRecipe(network=LINEAR, init_from=str(saved), lora=LoraRecipe(rank=2))
    first = student(recipe)
    torch.rand(5)  # what else was drawn before does not matter
    assert same(first, student(recipe))
    assert not same(first, student(replace(recipe, seed=1)))
    learning = {name for name, parameter in first.network.named_parameters() if parameter.requires_grad}
    assert learning == {name for name in dict(first.network.named_parameters()) if "lora_" in name}
    assert first.snapshot().state_dict().keys() == weights(student()).keys()


def test_a_snapshot_is_a_copy_that_no_longer_learns(student):
    first = student()
    snapshot = first.snapshot()
    assert not any(parameter.requires_grad for parameter in snapshot.parameters())
    assert not snapshot.training
    assert first.network.training
    with torch.no_grad():
        next(snapshot.parameters()).add_(1)
    assert not torch.equal(next(snapshot.parameters()), next(first.network.parameters()))


@pytest.mark.parametrize(("k", "loss_positions"), [(1, 3), (2, 2), (9, 0)])
def test_loss_positions_are_those_that_the_forward_counts(training_setup, k, loss_positions):
    assert training_setup(k=k).student.loss_positions((False, True, True, True, True)) == loss_positions
