"""One question, answered and read: likelihoods are the model's own."""

from math import exp

import pytest
import torch

from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.studies.families import built
from falcon_cli.studies.quality.figures import Quality
from falcon_cli.studies.quality.reading import Reading, read
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.target.model import TargetModel

PROMPT = [5, 9, 2, 30, 77]


@pytest.fixture
def held(chat_target):
    return lambda **changes: load_target(TargetRecipe(str(chat_target), **changes))


def test_the_target_agrees_with_itself(held):
    target = held()
    exact = read(target, PROMPT, 20)
    found = Quality.of([read(target, PROMPT, 20, exact.own)], [exact])
    assert found == Quality.of([exact], [exact])
    assert (found.agreement, found.alike) == (1.0, 1.0)
    ids = torch.tensor(PROMPT + exact.own)
    logits = target.model.head(target.model.prefill(ids).features_TD)[:-1]
    chances = logits.log_softmax(-1).gather(1, ids[1:, None])
    assert found.prompt_perplexity == pytest.approx(exp(-float(chances[:4].mean())), rel=1e-4)
    assert found.answer_perplexity == pytest.approx(exp(-float(chances[4:].mean())), rel=1e-4)


def test_capped_logits_are_read_as_the_class_makes_them():
    """Gemma 2: the likelihoods are those of its capped logits, not of its LM head's outputs."""
    model = made_twin(built("gemma2"))[0].float()
    model.config.final_logit_softcapping = 3.0
    target = LoadedTarget("small", TargetModel(model), None, frozenset(), "fp32")
    reading = read(target, PROMPT[:4], 6)
    ids = torch.tensor(PROMPT[:4] + reading.own)
    with target.model.plain_transformers() as plain, torch.inference_mode():
        chances = plain(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])
    assert reading.answer_nats == pytest.approx(-float(chances[3:].sum()), rel=1e-3)
    outputs = target.model.head(target.model.prefill(ids).features_TD)[:-1]
    assert (outputs.abs() > 3).any()


def test_other_answers_are_told_apart(held):
    target = held()
    own = read(target, PROMPT, 10).own
    other = [*own[:4], (own[4] + 1) % 200, *own[5:]]
    exact = Reading(PROMPT, other, 1.0, 1.0, len(other))
    found = Quality.of([read(target, PROMPT, 10, other)], [exact])
    assert found.alike == pytest.approx(0.4)
    assert found.agreement <= 0.9


def test_int8_is_coarser_than_bf16_is_coarser_than_fp32(held):
    ids = torch.tensor(PROMPT + read(held(), PROMPT, 20).own)
    logits = {kind: held(quantize=kind).model.prefill(ids).logits_TV for kind in ("none", "bf16", "int8")}
    near, far = ((logits[kind] - logits["none"]).norm() for kind in ("bf16", "int8"))
    assert 0 < near < far


def test_the_text_and_where_it_was_cut_are_kept(held):
    target = held()
    whole = read(target, PROMPT, 20)
    assert (whole.cut, len(whole.own)) == (True, 20)
    assert whole.text == target.tokenizer.decode(whole.own, skip_special_tokens=True) != ""
    stopping = LoadedTarget("small", target.model, target.tokenizer, frozenset({whole.own[4]}), "fp32")
    assert read(stopping, PROMPT, 20).cut is False


def test_a_drafted_answer_is_held_against_plain_decoding_by_ids(held):
    target = held()

    class Liar(PromptLookup):
        """Tells the loop other tokens than the target's from the third on."""

        seen = 0

        def observe(self, verdict, scores):
            super().observe(verdict, scores)
            self.seen += 1
            if self.seen == 2:
                target.model.rewind(len(PROMPT))

    options = PldOptions()
    drafters = {"pld": PromptLookup(target.model.device, options), "liar": Liar(target.model.device, options)}
    found = read(target, PROMPT, 20, drafters=drafters)
    assert found.parted["pld"] is None
    assert 2 <= found.parted["liar"] < 20
