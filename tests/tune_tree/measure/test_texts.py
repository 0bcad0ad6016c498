import copy
import hashlib
import json
from dataclasses import replace

import pytest

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.corpus.split import split
from falcon_cli.distill.corpus.tally import Tally
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CorpusRecipe
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.load import load_target
from falcon_cli.tune_tree.measure.texts import CalibrationPrompt, answers_to, prompts_of, share_out


@pytest.fixture(scope="module")
def target(chat_target):
    return load_target(TargetRecipe(str(chat_target), kernels="torch"))


@pytest.fixture
def dataset(tmp_path):
    def write(texts):
        lines = [json.dumps({"id": name, "prompt": text}) for name, text in texts.items()]
        (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
        return str(tmp_path / "prompts.jsonl")

    return write


MANY = {f"q{number}": f"prompt number {number}" for number in range(20)}


def by_hash(names):
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def test_prompts_come_in_the_order_of_their_names_hash(target, dataset):
    recipe = TuneTreeRecipe(dataset=dataset(MANY), prompts=4, validation_prompts=3)
    found = prompts_of(recipe, target)
    assert [one.id for one in found] == by_hash(MANY)[:7] != sorted(MANY)[:7]
    for one in found:
        text = f"<|im_start|>user\n{MANY[one.id]}<|im_end|>\n<|im_start|>assistant\n"
        assert target.tokenizer.decode(one.ids) == text
    backwards = dict(reversed(MANY.items()))
    assert prompts_of(TuneTreeRecipe(dataset=dataset(backwards), prompts=4, validation_prompts=3), target) == found


def test_the_first_prompts_are_those_that_distilling_holds_out(target, dataset):
    found = prompts_of(TuneTreeRecipe(dataset=dataset(MANY), prompts=3, validation_prompts=2), target)
    samples = [Sample(f"{name}/0", (5, 6, 7), (False, True, True)) for name in MANY]
    held_out = split(samples, CorpusRecipe(held_out=5), Tally()).held_out
    assert {one.id for one in held_out} == {f"{one.id}/0" for one in found}


def test_long_prompts_and_other_scripts_are_left_out(target, dataset):
    odd = {"long": "a" * 200, "greek": "ένα ερώτημα", "mixed": "ab éé", "few": "an éclair, long words", "digits": "1+1"}
    texts = {**odd, **dict.fromkeys("wxyz", "yes")}
    recipe = TuneTreeRecipe(dataset=dataset(texts), prompts=30, max_prompt_tokens=100)
    assert {one.id for one in prompts_of(recipe, target)} == {"few", "digits", *"wxyz"}


def test_the_answer_must_fit_behind_the_prompt(target, dataset):
    """The context is 512 tokens."""
    texts = {"long": "a" * 200, **dict.fromkeys("wxyz", "yes")}
    for answer, fits in ((200, True), (400, False)):
        recipe = TuneTreeRecipe(dataset=dataset(texts), max_new_tokens=answer)
        assert ("long" in {one.id for one in prompts_of(recipe, target)}) == fits


def test_a_prompt_with_a_token_without_a_row_is_left_out(target, dataset):
    tokenizer = copy.deepcopy(target.tokenizer)
    tokenizer.add_tokens(["number 7"])
    found = prompts_of(TuneTreeRecipe(dataset=dataset(MANY)), replace(target, tokenizer=tokenizer))
    assert {one.id for one in found} == MANY.keys() - {"q7"}


def test_too_few_prompts_are_refused_in_one_line(target, dataset):
    with pytest.raises(FalconError, match=r"prompts.jsonl gives 3 prompts of at most 512 tokens.*--dataset") as caught:
        prompts_of(TuneTreeRecipe(dataset=dataset(dict.fromkeys("xyz", "yes"))), target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("count", "prompts", "validation", "first"), [(72, 48, 24, 48), (9, 48, 24, 6), (10, 48, 24, 6), (5, 5, 0, 5)]
)
def test_prompts_are_shared_out_in_the_recipes_proportion(count, prompts, validation, first):
    given = [CalibrationPrompt(str(number), (number,)) for number in range(count)]
    calibration, kept = share_out(given, TuneTreeRecipe(prompts=prompts, validation_prompts=validation))
    assert len(calibration) == first
    assert [*calibration, *kept] == given


class Counting(Autoregressive):
    """Notes the prompts that the target is asked."""

    def __init__(self, device):
        super().__init__(device)
        self.asked = []

    def start(self, prompt_L, scores):
        self.asked.append(tuple(prompt_L.tolist()))


PROMPTS = [CalibrationPrompt(name, tuple(range(5, 9 + place))) for place, name in enumerate("abcd")]


def test_answers_are_the_targets_own_and_asked_for_once(target, tmp_path):
    log, drafter, ticks = tmp_path / "answers.jsonl", Counting(target.model.device), []
    first = answers_to(PROMPTS[:2], target, drafter, 12, log, lambda: ticks.append(1))
    with log.open("a") as file:
        file.write('{"prompt_ids": [5, 6')  # a kill in mid-write
    texts = answers_to(PROMPTS, target, drafter, 12, log, lambda: ticks.append(1))
    assert texts[:2] == first
    assert [text.prompt for text in texts] == PROMPTS
    for text in texts:
        plain = complete(
            target.model, Autoregressive(target.model.device), list(text.prompt.ids), Stop(target.stop_ids, 12)
        )
        assert list(text.answer) == plain.ids
    assert drafter.asked == [one.ids for one in PROMPTS]
    assert answers_to(PROMPTS[::-1], target, drafter, 12, log, lambda: None) == texts[::-1]
    assert len(drafter.asked) == 4
    assert len(ticks) == 6


def test_the_limit_cuts_answers_that_the_log_holds(target, tmp_path):
    log, drafter = tmp_path / "answers.jsonl", Counting(target.model.device)
    (long,) = answers_to(PROMPTS[:1], target, drafter, 12, log, lambda: None)
    (short,) = answers_to(PROMPTS[:1], target, drafter, 5, log, lambda: None)
    assert short.answer == long.answer[:5]
