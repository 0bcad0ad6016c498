"""What a model itself would say at each position of an answer."""

import pytest
import torch

from falcon_cli.errors import FalconError
from falcon_cli.sources import home
from falcon_cli.target.reference.force import ForcedReference

PROMPT = [3, 14, 15, 9, 2, 6]


@pytest.fixture
def reference(tiny_model):
    """A reference, and how often its model was made."""
    made = []

    def make():
        made.append(1)
        return tiny_model(dtype=torch.float32)

    return ForcedReference(PROMPT, "tiny", make), made


def own_choices(model, ids):
    with torch.inference_mode():
        return [int(model(torch.tensor([PROMPT + ids[:place]])).logits[0, -1].argmax()) for place in range(len(ids))]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_choices_are_the_models_after_each_token(count, reference, tiny_model, greedy):
    model = tiny_model(dtype=torch.float32)
    ids = greedy(model, PROMPT, count)
    assert reference[0].choices(ids) == ids
    ids[count // 2] = (ids[count // 2] + 1) % 48
    assert reference[0].choices(ids) == own_choices(model, ids) != ids


def test_they_are_kept(reference, capsys):
    asked, made = reference
    first = asked.choices([5, 9])
    assert "reading the answer by transformers' own forward" in capsys.readouterr().err
    assert asked.choices([5, 9]) == first
    assert (len(made), capsys.readouterr().err) == (1, "")
    for other in (
        lambda: asked.choices([5, 8]),
        lambda: ForcedReference(PROMPT[1:], "tiny", asked.make).choices([5, 9]),
        lambda: ForcedReference(PROMPT, "another", asked.make).choices([5, 9]),
    ):
        before = len(made)
        other()
        assert len(made) == before + 1


@pytest.mark.parametrize("content", ["", "{}", "[1]", '["a", "b"]', "[1, 2"])
def test_a_damaged_one_is_asked_for_again(content, reference):
    asked, made = reference
    first = asked.choices([5, 9])
    (file,) = (home() / "references").glob("*.json")
    file.write_text(content)
    assert asked.choices([5, 9]) == first
    assert len(made) == 2


def test_scores_that_are_no_numbers_choose_nothing(tiny_model):
    model = tiny_model(dtype=torch.float32)
    model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(FalconError, match="logits are not finite numbers"):
        ForcedReference(PROMPT, "spoiled", lambda: model).choices([5, 9])
