import random

import pytest
import torch

from falcon_cli.core import Draft, Scores
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.rivals.sps import SpeculativeSampling, SpsOptions
from falcon_cli.errors import UsageError
from falcon_cli.target.model import TargetModel

VOCAB = 48
SCORES = Scores.of(torch.zeros(1, 1), torch.zeros(1, 1))
NEVER_EARLY = {"min_probability": 0.0}


def successor(text):
    return (text[-1] * 11 + 5) % VOCAB


@pytest.mark.parametrize("gamma", [1, 3, 6])
def test_a_target_that_drafts_for_itself_is_always_right(tiny_model, family, gamma):
    target, twin = TargetModel(tiny_model(family)), TargetModel(tiny_model(family))
    drafter = SpeculativeSampling(twin, VOCAB, SpsOptions(gamma, **NEVER_EARLY))
    answer = complete(target, drafter, [3, 1, 4, 1, 5], Stop((), 1 + 4 * (gamma + 1)))
    assert [cycle.emitted for cycle in answer.cycles] == [gamma + 1] * 4
    assert [cycle.nodes for cycle in answer.cycles] == [gamma + 1] * 4


@pytest.mark.parametrize("seed", range(4))
def test_the_draft_models_cache_always_equals_reading_the_text_afresh(tiny_model, family, verdict_of, seed):
    """After any pattern of rooms and acceptances; logits are compared because rotary keys hide in them."""
    dice = random.Random(seed)
    model, bare = TargetModel(tiny_model(family)), tiny_model(family)
    drafter = SpeculativeSampling(model, VOCAB, SpsOptions(gamma=4, **NEVER_EARLY))
    text = [dice.randrange(VOCAB) for _ in range(6)]
    drafter.start(torch.tensor(text), SCORES)
    for _ in range(8):
        root = dice.randrange(VOCAB)
        draft = drafter.propose(root, room=dice.choice([0, 1, 2, 9, 9, 9]))
        drafted = draft.tokens_T[1:].tolist()
        text.append(root)
        with torch.inference_mode():
            logits_LV = bare(torch.tensor([text + drafted]), use_cache=False).logits[0]
        assert drafted == logits_LV[len(text) - 1 : -1].argmax(-1).tolist()  # the draft model's own greedy text
        verdict = verdict_of(draft, dice.randint(0, len(drafted)), 0)
        drafter.observe(verdict, SCORES)
        text += verdict.accepted
        assert model.cache.length <= len(text)
        unread = text[model.cache.length :]
        got = model.score(Draft.chain([*unread, 7], model.device)).logits_TV[-1]
        with torch.inference_mode():
            expected = bare(torch.tensor([[*text, 7]]), use_cache=False).logits[0, -1]
        # transformers' norms round to fp32 even in a float64 model
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("accepted", "unread"), [(0, 0), (2, 0), (3, 1)])
def test_only_a_wholly_accepted_draft_leaves_its_last_token_unread(toy_target, verdict_of, accepted, unread):
    model = toy_target(successor)
    drafter = SpeculativeSampling(model, VOCAB, SpsOptions(gamma=3, **NEVER_EARLY))
    drafter.start(torch.tensor([1, 2]), SCORES)
    drafter.observe(verdict_of(drafter.propose(9, room=10), accepted, 0), SCORES)
    text = [1, 2, 9, *model.continuation([9], accepted)]
    assert drafter.text == text
    assert model.read == text[: len(text) - unread]


def test_room_and_gamma_limit_the_draft(toy_target):
    for gamma, room, expected in [(3, 9, 3), (3, 2, 2), (3, 0, 0)]:
        drafter = SpeculativeSampling(toy_target(successor), VOCAB, SpsOptions(gamma, **NEVER_EARLY))
        drafter.start(torch.tensor([1]), SCORES)
        assert len(drafter.propose(2, room)) == 1 + expected


class Unsure:
    """Mixin: gives its choice 90 %, but only 30 % after the tokens in `doubts`."""

    doubts = frozenset[int]()

    def score(self, draft):
        choices = super().score(draft).logits_TV.argmax(-1)
        rows = []
        for token, choice in zip(draft.tokens_T.tolist(), choices.tolist(), strict=True):
            sure = 0.3 if token in self.doubts else 0.9
            probability_V = torch.full((VOCAB,), (1 - sure) / (VOCAB - 1))
            probability_V[choice] = sure
            rows.append(probability_V.log())
        return Scores.of(torch.stack(rows), SCORES.features_TD)


@pytest.mark.parametrize(("least", "doubted", "expected"), [(0.4, 2, 3), (0.4, 0, 1), (0.2, 0, 6), (0.95, 5, 1)])
def test_drafting_ends_after_a_token_of_low_probability(toy_target, least, doubted, expected):
    model = type("UnsureTarget", (Unsure, toy_target), {})(successor)
    truth = [2, *model.continuation([2], 6)]
    model.doubts = {truth[doubted]}
    drafter = SpeculativeSampling(model, VOCAB, SpsOptions(gamma=6, min_probability=least))
    drafter.start(torch.tensor([1]), SCORES)
    assert drafter.propose(2, room=10).tokens_T.tolist() == truth[: 1 + expected]


def test_tokens_that_the_target_does_not_have_are_never_drafted(toy_target):
    model = toy_target(lambda text: 47)  # a padded vocabulary: the target knows 40 tokens only
    drafter = SpeculativeSampling(model, 40, SpsOptions(gamma=3, **NEVER_EARLY))
    drafter.start(torch.tensor([1]), SCORES)
    assert int(drafter.propose(2, room=10).tokens_T.max()) < 40


def test_foreign_tokens_are_never_drafted_and_are_read_as_another(toy_target):
    """The target's tokens 30 to 47 are others, or none, to the draft model; its favourite is one of them."""
    model = toy_target(lambda text: 47)
    drafter = SpeculativeSampling(model, VOCAB, SpsOptions(gamma=3, **NEVER_EARLY), range(30, 48))
    drafter.start(torch.tensor([1, 40, 2]), SCORES)
    draft = drafter.propose(47, room=10)
    assert model.read[:4] == [1, 0, 2, 0]
    assert draft.tokens_T[0] == 47
    assert int(draft.tokens_T[1:].max()) < 30
    assert drafter.text == [1, 40, 2, 47]


@pytest.mark.parametrize("rows", [40, 48, 60])
def test_a_draft_model_of_fewer_or_more_rows_leaves_the_text_as_it_is(tiny_model, rows):
    target, other = TargetModel(tiny_model()), TargetModel(tiny_model(vocab_size=rows, seed=1))
    drafter = SpeculativeSampling(other, VOCAB, SpsOptions(**NEVER_EARLY), range(min(rows, 44), 48))
    plain = complete(target, SpeculativeSampling(target_free(), VOCAB, SpsOptions()), [3, 47, 41], Stop((), 60)).ids
    assert max(plain) >= 40
    answer = complete(target, drafter, [3, 47, 41], Stop((), 60))
    assert answer.ids == plain
    assert any(cycle.nodes > 1 for cycle in answer.cycles)


def test_a_new_text_forgets_the_old_one(tiny_model):
    model = TargetModel(tiny_model())
    drafter = SpeculativeSampling(model, VOCAB, SpsOptions(**NEVER_EARLY))
    drafter.start(torch.tensor([1, 2, 3]), SCORES)
    first = drafter.propose(4, room=5).tokens_T.tolist()
    drafter.start(torch.tensor([9] * 20), SCORES)
    drafter.propose(8, room=5)
    drafter.start(torch.tensor([1, 2, 3]), SCORES)
    assert drafter.propose(4, room=5).tokens_T.tolist() == first


@pytest.mark.parametrize("options", [{"gamma": 0}, {"min_probability": -0.1}, {"min_probability": 1.0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(UsageError, match=r"sps: needs gamma >= 1 and 0 <= min_probability < 1"):
        SpsOptions(**options)


@pytest.mark.parametrize("prompt_tokens", [5, 23, 24, 40])
def test_a_draft_model_of_a_shorter_context_drafts_as_far_as_it_reaches(tiny_model, prompt_tokens):
    target, short = TargetModel(tiny_model()), TargetModel(tiny_model(max_position_embeddings=24))
    prompt = [token % 48 for token in range(prompt_tokens)]
    plain = complete(target, SpeculativeSampling(target_free(), 48, SpsOptions()), prompt, Stop((), 40))
    completion = complete(target, SpeculativeSampling(short, 48, SpsOptions(min_probability=0)), prompt, Stop((), 40))
    assert completion.ids == plain.ids
    assert short.cache.length <= 24
    assert any(cycle.nodes > 1 for cycle in completion.cycles) == (prompt_tokens < 24)


def target_free():
    """A draft model that can read nothing at all."""
    from types import SimpleNamespace

    return SimpleNamespace(context_limit=0, device=torch.device("cpu"), rewind=lambda length: None)
