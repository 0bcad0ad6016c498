"""A new drafter, or one to go on from, with what it shares with its target."""

from dataclasses import replace

import pytest
import torch

from falcon_cli.distill.falcon import FalconPupil
from falcon_cli.distill.vocabulary import coverage
from falcon_cli.drafter.checkpoint import save_drafter
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DistillRecipe, LoraRecipe, NetworkRecipe

LINEAR = NetworkRecipe(k=2, mixer="linear", draft_vocab_size=20)


@pytest.fixture
def pupil(classroom):
    """Build one: `pupil(draft_vocab_size=20, seed=3)`."""
    room = classroom()

    def build(recipe=None, **own):
        recipe = recipe or DistillRecipe(network=replace(LINEAR, **own))
        return FalconPupil.of(recipe, room.target, room.samples)

    build.room = room
    return build


@pytest.fixture
def saved(pupil, tmp_path):
    """The folder of an earlier drafter, k = 2, linear, 20 tokens."""
    one = pupil()
    save_drafter(tmp_path / "drafter", one.network, one.vocabulary_W, pupil.room.target, {}, torch.float32)
    return tmp_path / "drafter"


def weights(pupil):
    return pupil.network.state_dict()


def same(one, other):
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_a_new_drafter_is_its_seed_s(pupil):
    one, again, other = (pupil(DistillRecipe(network=LINEAR, seed=seed)) for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)
    assert all(parameter.requires_grad for parameter in one.network.parameters())


def test_it_shares_embedding_and_head_with_its_target(pupil):
    model = pupil.room.target.model
    whole, part = pupil(draft_vocab_size=0), pupil(draft_vocab_size=20)
    assert whole.vocabulary_W is None
    assert torch.equal(whole.frozen.head_WD, model.head.weight)
    assert torch.equal(part.frozen.head_WD, model.head.weight[part.vocabulary_W])
    assert torch.equal(part.frozen.embedding_VD, model.model.get_input_embeddings().weight)
    assert part.frozen.number_V[part.vocabulary_W].tolist() == list(range(20))
    assert int((part.frozen.number_V >= 0).sum()) == 20


def test_the_draft_vocabulary_holds_the_stop_tokens_and_what_is_said_most(pupil):
    part = pupil(draft_vocab_size=20)
    assert 2 in part.vocabulary_W.tolist()
    assert pupil(draft_vocab_size=48).vocabulary_W is None


def test_a_draft_vocabulary_larger_than_the_target_s_is_refused(pupil):
    with pytest.raises(FalconError, match=r"network\.draft_vocab_size is 49, the target's vocabulary 48: ask for less"):
        pupil(draft_vocab_size=49)


def test_it_tells_its_size_and_what_its_vocabulary_covers(pupil):
    samples = pupil.room.samples
    one = pupil()
    parameters = sum(parameter.numel() for parameter in one.network.parameters())
    answers = [t for s in samples for t, answer in zip(s.tokens, s.answer, strict=True) if answer]
    share = sum(token in one.vocabulary_W for token in answers) / len(answers)
    _, known = coverage(samples, one.vocabulary_W)
    start = f"drafter: {parameters / 1e6:.2f}M parameters to learn"
    told = f"{start}, a draft vocabulary of 20 that covers {share:.1%} of held-out answers"
    assert one.told(samples) == f"{told}, {known:.1%} with the words of the text before"
    assert share < known < 1
    assert pupil(draft_vocab_size=0).told(samples) == start


def test_an_earlier_drafter_is_gone_on_from_with_its_own_vocabulary(pupil, saved, capsys):
    room, first = pupil.room, pupil()
    fewer = FalconPupil.of(DistillRecipe(network=LINEAR, init_from=str(saved), seed=9), room.target, room.samples[:1])
    assert same(first, fewer)
    assert torch.equal(fewer.vocabulary_W, first.vocabulary_W)
    assert all(parameter.requires_grad for parameter in fewer.network.parameters())
    assert f"going on from {saved}" in capsys.readouterr().err


def test_an_earlier_drafter_of_another_mixer_is_refused_with_the_keys_to_set(pupil, saved):
    other = DistillRecipe(network=replace(LINEAR, mixer="time", normalise=False), init_from=str(saved))
    keys = r"set network\.mixer=linear, network\.normalise=True$"
    with pytest.raises(FalconError, match=rf"another form than the recipe: {keys}"):
        pupil(other)


@pytest.mark.parametrize(
    ("form", "anew"),
    [
        ({"k": 1, "start": "own", "chained": False}, ""),  # EAGLE out of a Falcon drafter
        ({"k": 1}, "; starting anew: slot_KD"),
        ({"k": 3}, "; starting anew: slot_KD"),
        ({"chained": False}, ""),
    ],
)
def test_of_an_earlier_drafter_of_another_form_all_is_taken_that_fits(pupil, saved, capsys, form, anew):
    first = weights(pupil())
    other = weights(pupil(DistillRecipe(network=replace(LINEAR, **form), init_from=str(saved), seed=9)))
    assert f"going on from {saved}{anew}\n" in capsys.readouterr().err
    assert "mixer.weight" in other
    for name, value in other.items():
        assert (value.shape == first[name].shape and torch.equal(value, first[name])) or name in anew


def test_no_drafter_there_is_one_line(pupil, tmp_path):
    with pytest.raises(FalconError, match=r"no drafter at .*nowhere"):
        pupil(DistillRecipe(network=LINEAR, init_from=str(tmp_path / "nowhere")))


def test_with_lora_only_the_changes_learn_and_the_seed_draws_them(pupil, saved):
    recipe = DistillRecipe(network=LINEAR, init_from=str(saved), lora=LoraRecipe(rank=2))
    one = pupil(recipe)
    torch.rand(5)  # what else was drawn before does not matter
    assert same(one, pupil(recipe))
    assert not same(one, pupil(replace(recipe, seed=1)))
    learning = {name for name, parameter in one.network.named_parameters() if parameter.requires_grad}
    assert learning == {name for name in dict(one.network.named_parameters()) if "lora_" in name}
    assert one.grown().state_dict().keys() == weights(pupil()).keys()


def test_what_has_grown_is_a_copy_that_learns_no_more(pupil):
    one = pupil()
    grown = one.grown()
    assert not any(parameter.requires_grad for parameter in grown.parameters())
    assert not grown.training
    assert one.network.training
    with torch.no_grad():
        next(grown.parameters()).add_(1)
    assert not torch.equal(next(grown.parameters()), next(one.network.parameters()))


@pytest.mark.parametrize(("k", "bearing"), [(1, 3), (2, 2), (9, 0)])
def test_bearing_positions_are_those_that_the_forward_counts(classroom, k, bearing):
    assert classroom(k=k).pupil.bearing((False, True, True, True, True)) == bearing
