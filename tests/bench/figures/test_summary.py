import json
from dataclasses import replace

import pytest

from falcon_cli.bench.figures.records import TurnRecord
from falcon_cli.bench.figures.summary import summarise
from falcon_cli.decode.stats import Completion, Cycle

LOOPING = [*range(10), *[8, 9] * 20]  # the loop starts at 10


def record(method: str, ids: list[int], emitted: int, question: str = "1", **other) -> TurnRecord:
    """An answer in cycles of `emitted` tokens, each of one second."""
    left = len(ids) - 1
    counts = [min(emitted, left - at) for at in range(0, left, emitted)]
    completion = Completion(5, ids, 0.5, [Cycle(count, 4, 0.25, 0.5, 1.0) for count in counts])
    place = {"question_id": question, "category": "c", "turn": 0, "repeat": 0, **other}
    return TurnRecord(**place, method=method, prompt=(1, 2, 3, 4, 5), completion=completion, text="")


def test_figures_by_hand():
    ids = list(range(13))
    methods = summarise([record("ar", ids, 1), record("falcon", ids, 3)])["methods"]
    figures = methods["falcon"]
    assert methods["ar"]["speedup"] == 1.0
    assert methods["ar"]["speedup_ci95"] == [1.0, 1.0]
    assert (figures["tokens"], figures["cycles"]) == (12, 4)
    assert (figures["decode_seconds"], figures["prefill_seconds"]) == (4.0, 0.5)
    assert (figures["draft_seconds"], figures["verify_seconds"]) == (1.0, 2.0)
    assert (figures["tokens_per_second"], figures["speedup"]) == (3.0, 3.0)
    assert (figures["accepted_length"], figures["tokens_per_cycle"]) == (2.0, 3.0)
    assert figures["acceptance_rate"] == pytest.approx(2 / 3)
    assert figures["accepted_by_depth"] == [1.0, 1.0]
    assert figures["loop_free"]["loop_share"] == 0.0
    assert figures["loop_free"]["speedup"] == figures["speedup"]
    assert figures["by_category"] == {"c": {"speedup": 3.0, "tokens_per_cycle": 3.0}}


def test_loop_free_figures_stop_at_the_loop():
    figures = summarise([record("ar", LOOPING, 1), record("falcon", LOOPING, 7)])["methods"]["falcon"]
    assert figures["tokens"] == 49
    assert figures["speedup"] == pytest.approx(7.0)
    free = figures["loop_free"]
    assert free["tokens"] == 9  # output indices 1..9: a whole cycle of 7, and 2 of the next
    assert free["tokens_per_cycle"] == 4.5
    assert free["tokens_per_second"] == 4.5
    assert free["speedup"] == pytest.approx(4.5)
    assert free["speedup_ci95"] == pytest.approx([4.5, 4.5])
    assert free["acceptance_rate"] == pytest.approx(7 / 9)
    assert free["loop_share"] == pytest.approx(40 / 49)


def test_the_loop_is_the_baselines():
    fresh = list(range(50))
    methods = summarise([record("ar", LOOPING, 1), record("falcon", fresh, 1)])["methods"]
    assert methods["falcon"]["loop_free"]["tokens"] == 9


def test_without_a_baseline_a_method_hears_its_own_loop_and_has_no_speedup():
    figures = summarise([record("falcon", LOOPING, 1)])["methods"]["falcon"]
    assert figures["loop_free"]["tokens"] == 9
    assert figures["speedup"] is None
    assert figures["speedup_ci95"] == [None, None]
    assert figures["by_category"]["c"]["speedup"] is None


def test_each_turn_has_its_own_loop():
    records = [
        record(method, ids, 1, turn=turn) for method in ("ar", "x") for turn, ids in enumerate([LOOPING, [*range(5)]])
    ]
    figures = summarise(records)["methods"]["x"]
    assert (figures["tokens"], figures["loop_free"]["tokens"]) == (49 + 4, 9 + 4)


def test_repeats_are_pooled():
    ids = list(range(13))
    once = summarise([record("ar", ids, 1), record("x", ids, 3)])["methods"]["x"]
    twice = summarise([record(m, ids, e, repeat=r) for r in range(2) for m, e in (("ar", 1), ("x", 3))])["methods"]["x"]
    assert twice["tokens"] == 2 * once["tokens"]
    assert twice["speedup"] == once["speedup"]


def test_only_questions_that_both_answered_make_a_speedup():
    ids = list(range(13))
    records = [record("ar", ids, 1), record("x", ids, 3), record("x", ids, 12, question="2")]
    assert summarise(records)["methods"]["x"]["speedup"] == 3.0


def test_categories_are_apart():
    ids = list(range(13))
    records = [record("ar", ids, 1, question=q, category=q) for q in ("a", "b")]
    records += [record("x", ids, 3, question="a", category="a"), record("x", ids, 6, question="b", category="b")]
    by_category = summarise(records)["methods"]["x"]["by_category"]
    assert by_category["a"]["speedup"] == 3.0
    assert by_category["b"] == {"speedup": 6.0, "tokens_per_cycle": 6.0}


def test_peers_have_fewer_figures(results):
    expected = {"tokens", "decode_seconds", "prefill_seconds", "tokens_per_second"}
    expected |= {"speedup", "speedup_ci95", "loop_free", "prompts_equal"}
    assert set(results["peers"]) == {"hf", "hf-pld"}
    for figures in results["peers"].values():
        assert set(figures) == expected
        assert set(figures["loop_free"]) == {"tokens", "tokens_per_second", "speedup", "speedup_ci95", "loop_share"}


def test_a_first_token_that_stops_is_no_division_by_zero():
    summary = summarise([record("ar", [7], 1), record("x", [7], 3), record("hf", [7], 1)], peers=["hf"])
    assert summary["methods"]["x"]["speedup"] is None
    assert summary["methods"]["x"]["tokens_per_cycle"] == 1.0
    assert summary["methods"]["x"]["loop_free"]["loop_share"] == 0.0
    assert summary["peers"]["hf"]["tokens"] == 0
    json.dumps(summary, allow_nan=False)


def test_an_invented_run_is_consistent_json(records, results):
    json.dumps(results, allow_nan=False)
    assert list(results["methods"]) == ["ar", "falcon", "eagle", "pld"]
    for figures in results["methods"].values():
        low, high = figures["speedup_ci95"]
        assert low <= figures["speedup"] <= high
        assert figures["tokens"] == sum(len(r.completion.ids) - 1 for r in records if r.method == "ar")
    assert results["methods"]["pld"]["loop_free"]["speedup"] < results["methods"]["pld"]["speedup"]


def test_the_same_seed_gives_the_same_document(records):
    assert summarise(records, seed=1) == summarise(iter(records), seed=1)
    one, two = (summarise(records, seed=seed)["methods"]["pld"]["speedup_ci95"] for seed in (1, 2))
    assert one != two


def test_peak_memory_is_the_largest_of_a_methods_answers():
    records = [
        *(replace(record("ar", [1, 2], 1, str(n)), peak_bytes=peak) for n, peak in enumerate((5, 9, 7))),
        record("pld", [1, 2], 1),
    ]
    methods = summarise(records)["methods"]
    assert methods["ar"]["peak_memory_bytes"] == 9
    assert methods["pld"]["peak_memory_bytes"] is None
