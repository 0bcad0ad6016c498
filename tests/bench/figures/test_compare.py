import json
from statistics import fmean

import pytest

from falcon_cli.bench.figures import compare as module
from falcon_cli.bench.figures.answer_files import FileAnswer
from falcon_cli.bench.figures.answers import answers
from falcon_cli.bench.figures.compare import (
    compare,
    contradiction,
    figures_of,
    mean_accepted_tokens,
    mean_rate,
    rate,
    recounted_rate,
    shared,
    short_names,
    texts_equal,
    tokens_per_cycle,
    warnings_of,
)
from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe

BASE = [
    FileAnswer("1", ("a b c", "d"), tokens=6, steps=6, seconds=2.0, accept_lengths=(1,) * 6),
    FileAnswer("2", ("e f",), tokens=30, steps=30, seconds=3.0, accept_lengths=(1,) * 30),
]
FAST = [
    FileAnswer("1", ("a b c", "d\n"), tokens=6, steps=2, seconds=0.5, accept_lengths=(3, 3)),
    FileAnswer("2", ("e f g",), tokens=30, steps=15, seconds=2.5, accept_lengths=(2,) * 15),
]


def words(text):
    return len(text.split())


def answer(turns=1, **figures):
    return FileAnswer("1", ("",) * turns, **{"tokens": 12, "steps": 3, "seconds": 1.0, **figures})


def test_a_rate_is_total_over_total_and_spec_benchs_the_mean_of_rates():
    assert rate(BASE) == 36 / 5
    assert mean_rate(BASE) == (6 / 2 + 30 / 3) / 2


def test_the_baselines_tokens_are_recounted_from_its_text():
    assert recounted_rate(BASE, words) == (4 / 2 + 2 / 3) / 2


def test_figures_hold_both_ways_side_by_side():
    base, fast = figures_of([BASE, FAST], words)
    assert base["tokens_per_second"] == rate(BASE)
    assert (base["speedup"], base["spec_bench"]["speedup"]) == (1, 1)
    assert base["spec_bench"]["tokens_per_second"] == recounted_rate(BASE, words)
    assert fast["tokens_per_second"] == 36 / 3
    assert fast["speedup"] == (36 / 3) / (36 / 5)
    assert fast["spec_bench"]["tokens_per_second"] == mean_rate(FAST) == 12
    assert fast["spec_bench"]["speedup"] == 12 / recounted_rate(BASE, words)
    assert fast["spec_bench"]["mean_accepted_tokens"] == 36 / 17
    assert (fast["tokens"], fast["steps"], fast["seconds"]) == (36, 17, 3.0)
    assert fast["tokens_per_cycle"] == 36 / 17
    assert fast["accepted_length"] == 36 / 17 - 1
    assert (base["texts_equal"], fast["texts_equal"]) == (2, 1)


def test_a_method_is_never_recounted():
    _, again = figures_of([BASE, list(BASE)], words)
    assert again["spec_bench"]["tokens_per_second"] == mean_rate(BASE)


def test_mean_accepted_tokens_pool_all_cycles_of_those_that_list_them():
    assert mean_accepted_tokens([answer(accept_lengths=(4, 4, 4)), answer(accept_lengths=(1,)), answer()]) == 13 / 4
    assert mean_accepted_tokens([answer()]) is None
    assert mean_accepted_tokens([answer(accept_lengths=())]) is None


def test_what_does_not_exist_is_none():
    mute = [answer(tokens=0)]
    assert (rate(mute), mean_rate(mute), tokens_per_cycle(mute)) == (None, None, None)
    assert tokens_per_cycle([answer(steps=0)]) is None
    assert recounted_rate(mute, lambda text: -1) is None
    ours, theirs = figures_of([mute, [answer()]], lambda text: 0)
    assert (ours["speedup"], theirs["speedup"], theirs["spec_bench"]["speedup"]) == (None, None, None)
    assert (ours["accepted_length"], theirs["accepted_length"]) == (None, 3)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        ({"turns": 2, "tokens": 12, "steps": 3, "accept_lengths": (4, 3, 3)}, "new_tokens count prefill's own token"),
        ({"tokens": 12, "steps": 3, "accept_lengths": (3, 3, 3)}, "accept_lengths leave out the bonus token"),
        ({"tokens": 13, "steps": 3, "accept_lengths": (3, 3, 3)}, "accept_lengths leave out the bonus token"),
        ({"turns": 2, "tokens": 12, "steps": 2, "accept_lengths": (3,) * 4}, "steps are counted from 0"),
        ({"tokens": 12, "steps": 11, "accept_lengths": (4, 4, 4)}, "steps are tokens, not cycles"),
        ({"tokens": 12, "steps": 7, "accept_lengths": (4, 4, 4)}, "they do not count the same"),
        ({"tokens": 12, "steps": 3, "accept_lengths": (0, 0, 0)}, "they do not count the same"),
    ],
)
def test_a_contradiction_is_told_with_its_reason(one, why):
    told = contradiction([answer(**one)])
    assert told is not None
    assert why in told
    assert "\n" not in told


def test_a_contradiction_shows_both_figures():
    told = contradiction([answer(tokens=12, steps=3, accept_lengths=(3, 3, 3)), answer(tokens=99)])
    assert told.startswith("accept_lengths tell 3.00 tokens per cycle, new_tokens / steps 4.00 (")


@pytest.mark.parametrize(("tokens", "told"), [(200, False), (203, False), (197, False), (205, True), (195, True)])
def test_up_to_two_percent_are_no_contradiction(tokens, told):
    assert (contradiction([answer(tokens=tokens, steps=100, accept_lengths=(2,) * 100)]) is not None) == told


@pytest.mark.parametrize("one", [{}, {"accept_lengths": ()}, {"tokens": 0, "accept_lengths": (1,)}])
def test_where_nothing_can_be_held_against_anything_there_is_no_contradiction(one):
    assert contradiction([answer(**one)]) is None


def test_texts_are_equal_but_for_white_space_at_the_ends():
    assert texts_equal(FAST, BASE) == 1
    assert texts_equal([answer(turns=1)], [answer(turns=2)]) == 0


def test_warnings_name_lossy_and_uncounted_files():
    assert warnings_of(BASE, BASE) == []
    assert warnings_of(FAST, BASE) == ["1 of 2 texts are not the baseline's: lossy, or cut at another length"]
    assert warnings_of([answer(tokens=0)], [answer()])[0].startswith("its new_tokens are all 0")


def test_only_questions_of_every_file_count():
    one, two, three = (dict.fromkeys(ids) for ids in ("abcd", "dxb", "bd"))
    assert shared(["1", "2", "3"], [one, two, three]) == ["b", "d"]
    with pytest.raises(FalconError, match=r"^2 shares no question with 1: compare answers to the same questions"):
        shared(["1", "2"], [one, dict.fromkeys("xy")])
    with pytest.raises(FalconError, match="3 shares no question with the files before it"):
        shared(["1", "2", "3"], [one, two, dict.fromkeys("a")])


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["run/answers/ar.jsonl", "run/answers/pld.jsonl.gz"], ["ar", "pld"]),
        (["run_1/pld.jsonl", "run_2/pld.jsonl", "ar.jsonl"], ["run_1/pld", "run_2/pld", "ar"]),
        (["a/v-1.3-temp-0.0.jsonl"], ["v-1.3-temp-0.0"]),
        (["ar.jsonl", "ar.jsonl"], ["ar", "ar"]),
        (["ar.jsonl", "ar.json"], ["ar.jsonl", "ar.json"]),
    ],
)
def test_names_are_as_short_as_tells_them_apart(files, names):
    assert short_names(files) == names


@pytest.fixture
def written(records, tmp_path):
    """Write the answer file of a method of our own bench."""

    def write(method, skip=0):
        path = tmp_path / f"{method}.jsonl"
        lines = list(answers(records, method, "t"))[skip:]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    return write


def test_our_own_files_give_the_records_figures(records, written, byte_tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "load_tokenizer", lambda target: asked.append(target) or byte_tokenizer)
    target = TargetRecipe(model="tiny")
    document = compare([written("ar"), written("falcon", skip=2)], target)
    assert asked == [target]
    assert (document["schema"], document["target"], document["questions"]) == (1, "tiny", 10)
    assert [(row["name"], row["questions"]) for row in document["files"]] == [("ar", 12), ("falcon", 10)]
    for row, method in zip(document["files"], ("ar", "falcon"), strict=True):
        own = [r for r in records if (r.method, r.repeat) == (method, 0) and int(r.question_id) >= 83]
        tokens = sum(len(r.completion.ids) for r in own)
        seconds = sum(r.completion.prefill_seconds + r.completion.decode_seconds for r in own)
        lengths = [cycle.emitted for r in own for cycle in r.completion.cycles]
        assert row["tokens_per_second"] == pytest.approx(tokens / seconds)
        assert row["tokens_per_cycle"] == tokens / len(lengths)
        assert row["spec_bench"]["mean_accepted_tokens"] == pytest.approx(sum(lengths) / len(lengths))
        assert row["texts_equal"] == 10
    assert document["files"][1]["speedup"] > 1
    recounted = [
        sum(len(r.text) - 1 for r in own) / sum(r.completion.prefill_seconds + r.completion.decode_seconds for r in own)
        for question in range(83, 93)
        for own in [[r for r in records if (r.method, r.repeat, r.question_id) == ("ar", 0, str(question))]]
    ]  # the tokenizer knows no pair of letters of "answer 3.0"
    assert document["files"][0]["spec_bench"]["tokens_per_second"] == pytest.approx(fmean(recounted))
    json.dumps(document, allow_nan=False)
