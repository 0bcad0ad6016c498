import json

import pytest
import torch

from falcon_cli.core import Draft
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.errors import FalconError
from falcon_cli.target.load import LoadedTarget
from falcon_cli.tune_tree.measure.texts import CalibrationPrompt
from falcon_cli.tune_tree.measure.validation import (
    PLAIN,
    MeasuredSpeed,
    ValidationRun,
    speeds_of,
    validate,
    warn_where_costs_are_off,
)

CPU = torch.device("cpu")
PROMPTS = [CalibrationPrompt(name, (number, 7)) for number, name in enumerate("abcdef")]


def test_speeds_by_hand():
    runs = [
        ValidationRun(PLAIN, "a", 4, 4, 2.0, (1, 2, 3, 4, 5)),
        ValidationRun(PLAIN, "b", 6, 6, 3.0, (6, 7)),
        ValidationRun("tree", "a", 4, 2, 1.0, (1, 2, 3, 4, 5)),
        ValidationRun("tree", "b", 6, 2, 1.5, (6, 8)),
    ]
    assert speeds_of(runs) == {
        PLAIN: MeasuredSpeed(tokens_per_second=2, tokens_per_cycle=1, speedup=1, alike=2, prompts=2),
        "tree": MeasuredSpeed(tokens_per_second=4, tokens_per_cycle=2.5, speedup=2, alike=1, prompts=2),
    }


def test_of_two_runs_of_a_prompt_the_later_counts():
    runs = [ValidationRun(PLAIN, "a", 4, 4, 9.0, (1,)), ValidationRun(PLAIN, "a", 4, 4, 2.0, (1,))]
    assert speeds_of(runs) == {PLAIN: MeasuredSpeed(2, 1, 1, 1, 1)}


class Guess(Autoregressive):
    """Guesses right so many tokens ahead, and notes in a list that all share which prompt it is started on."""

    def __init__(self, name, right, begun):
        super().__init__(CPU)
        self.name, self.right, self.begun = name, right, begun

    def start(self, prompt_L, scores):
        self.begun.append((self.name, int(prompt_L[0])))

    def propose(self, token, room):
        return Draft.chain([(token + ahead) % 48 for ahead in range(min(self.right, room) + 1)], self.device)


@pytest.fixture
def validated(toy_target, tmp_path):
    """Validates on a target that counts; returns the speeds and who was asked what, warming up left out."""
    target = LoadedTarget("toy", toy_target(lambda text: (text[-1] + 1) % 48), None, frozenset(), "fp32")

    def run(prompts=PROMPTS, names=(PLAIN, "one", "three"), seed=0, log="validation.jsonl", limit=9, warm=3):
        begun, ticks = [], []
        contenders = {name: Guess(name, right, begun) for name, right in zip(names, (0, 1, 3), strict=False)}
        found = validate(contenders, prompts, target, limit, seed, tmp_path / log, lambda: ticks.append(1))
        assert len(ticks) == len(prompts)
        assert len(begun[:warm]) == len(set(begun[:warm]))
        return found, begun[warm:]

    return run


def test_every_contender_answers_every_prompt(validated, tmp_path):
    found, _ = validated()
    assert {name: (one.tokens_per_cycle, one.alike, one.prompts) for name, one in found.items()} == {
        PLAIN: (1, 6, 6),
        "one": (2, 6, 6),
        "three": (4, 6, 6),
    }
    assert found[PLAIN].speedup == 1
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert len(lines) == 18
    assert {line["tokens"] for line in lines} == {8}  # the prefill's own does not count
    assert all(line["ids"] == list(range(8, 17)) for line in lines)
    rate = 6 * 8 / sum(line["seconds"] for line in lines if line["contender"] == "one")
    assert found["one"].tokens_per_second == pytest.approx(rate)


def test_contenders_take_turns_in_an_order_drawn_for_each_prompt(validated):
    _, begun = validated()
    assert [number for _, number in begun] == [number for number in range(6) for _ in range(3)]
    orders = [[name for name, number in begun if number == one] for one in range(6)]
    assert all(sorted(order) == sorted([PLAIN, "one", "three"]) for order in orders)
    assert len(set(map(tuple, orders))) > 2
    assert validated(log="again")[1] == begun
    assert validated(log="other", seed=1)[1] != begun


def test_what_the_log_holds_is_not_run_again(validated, tmp_path):
    log = tmp_path / "validation.jsonl"
    validated(prompts=PROMPTS[:3])
    kept = log.read_text()
    lines = kept.splitlines(keepends=True)
    log.write_text("".join(lines[:7]) + lines[7][:20])  # killed in mid-write: of the third prompt one run is left
    _, begun = validated()
    assert {number for _, number in begun} == {2, 3, 4, 5}
    assert len(begun) == 12
    found, begun = validated(warm=0)
    assert begun == []
    assert found["three"].prompts == 6


def test_a_new_contender_asks_all_prompts_again(validated):
    validated(prompts=PROMPTS[:2])
    found, begun = validated(prompts=PROMPTS[:2], names=(PLAIN, "one", "another"))
    assert len(begun) == 6
    assert set(found) == {PLAIN, "one", "another"}


def test_answers_of_one_token_say_nothing(validated):
    with pytest.raises(FalconError, match="ends every answer with its first token"):
        validated(limit=1)


@pytest.mark.parametrize(("speed", "warned"), [(10.0, False), (11.9, False), (12.1, True), (8.2, True)])
def test_plain_decoding_at_another_speed_than_predicted_is_warned_of(capsys, speed, warned):
    warn_where_costs_are_off(MeasuredSpeed(speed, 1, 1, 6, 6), predicted=10.0)
    assert ("run again with --cost measure" in capsys.readouterr().err) == warned
