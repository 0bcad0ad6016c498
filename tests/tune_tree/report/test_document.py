import json
from dataclasses import replace

import pytest

from falcon_cli.tune_tree.measure.validation import PLAIN
from falcon_cli.tune_tree.report.document import (
    BUILT_IN,
    COPIES_SO_FAR,
    CURRENT,
    DYNAMIC,
    document,
    name_of,
    to_json_line,
)

LINE = {
    "nodes",
    "passes",
    "k",
    "predicted_tokens_per_second",
    "measured_tokens_per_second",
    "predicted_tokens_per_cycle",
    "measured_tokens_per_cycle",
}


def test_where_trees_ran_the_fastest_run_wins(tuning, tmp_path):
    one = tuning(tmp_path, speeds=(20.0, 30.0, 15.0, 12.0, 18.0))
    assert one.finalists[0].tokens_per_second > one.finalists[1].tokens_per_second  # as predicted
    assert one.winner is one.finalists[1]
    assert one.winner_name == name_of(one.finalists[1])
    assert list(one.contenders) == [*map(name_of, one.finalists), DYNAMIC, CURRENT, BUILT_IN]


@pytest.mark.parametrize(("place", "name"), [(2, CURRENT), (3, BUILT_IN), (4, DYNAMIC)])
def test_any_contender_may_win(tuning, tmp_path, place, name):
    one = tuning(tmp_path, speeds=tuple(30.0 if other == place else 20.0 for other in range(5)))
    assert one.winner_name == name
    assert one.winner is {**one.others, DYNAMIC: one.finalists[0]}[name]


def test_where_none_ran_the_prediction_wins(tuning, tmp_path):
    one = tuning(tmp_path)
    assert one.plain_predicted == pytest.approx(1000 / 20.5)
    assert one.winner is one.finalists[0]
    assert DYNAMIC not in one.contenders


def test_where_nothing_is_faster_plain_decoding_wins(tuning, tmp_path):
    for one in (
        tuning(tmp_path, speeds=(9.0, 8.0, 10.0, 7.0, 7.0)),
        tuning(tmp_path, node_ms=200.0),
        replace(tuning(tmp_path), finalists=(), others={}),
    ):
        assert one.winner is one.winner_name is None
        assert document(one)["winner"] == {"decode": "plainly"}


@pytest.mark.parametrize(("place", "k"), [(0, 1), (2, 2)])
def test_the_fastest_way_of_copying_beside_the_winners_drafter_wins(tuning, tmp_path, place, k):
    """The drafter of k = 1 has one way, the fastest; that of k = 2 another and the one so far."""
    one = tuning(tmp_path, speeds=tuple(30.0 if other == place else 20.0 for other in range(5)))
    fastest = max(one.copy_candidates, key=one.speed)
    assert (one.k, one.copy_candidates[fastest].k) == (k, 1)
    assert one.copier_name == (fastest if k == 1 else COPIES_SO_FAR)
    assert one.copying == one.copy_candidates[one.copier_name].copying
    told = document(one)["copying"]
    assert told["ngram"] == one.copying.ngram == 3
    assert told["tokens_per_second"] == one.speed(one.copier_name) == 10 * told["speedup"]
    assert document(one)["copiers"][COPIES_SO_FAR]["measured_tokens_per_second"] == 32.0
    assert document(one)["copiers"][COPIES_SO_FAR]["copied"] == 7


def test_where_the_tree_alone_is_faster_nothing_is_copied(tuning, tmp_path):
    one = tuning(tmp_path, speeds=(20.0, 30.0, 15.0, 12.0, 18.0), copies=(29.0, 29.0, 29.0))
    assert one.copier_name is None
    assert (one.copying.tokens, one.copying.shape) == (0, one.winner.shape)
    slow = tuning(tmp_path, speeds=(9.0,) * 5, copies=(9.0, 9.0, 9.0))
    assert (slow.copying.tokens, slow.copying.shape.paths) == (0, ())
    assert replace(one, copy_candidates={}).copying is None
    assert document(replace(one, copy_candidates={}))["copying"] is None


def test_copies_may_pay_where_no_tree_does(tuning, tmp_path):
    one = tuning(tmp_path, speeds=(9.0,) * 5, copies=(12.0, 13.0, 11.0))
    assert one.winner is None
    assert one.copying.tokens > 0
    assert document(one)["copying"]["speedup"] == (1.2 if one.k == 2 else 1.3)


def test_names_tell_finalists_apart_and_read_well(tuning, tmp_path):
    one = tuning(tmp_path).finalists[0]
    assert name_of(one) == f"k = {one.k}, {one.nodes} nodes, {one.passes} pass" + "es" * (one.passes > 1)
    single = next(other for other in tuning(tmp_path).found if other.nodes == 1)
    assert name_of(single) == f"k = {single.k}, 1 node, 1 pass"


def test_the_document_tells_what_ran(tuning, tmp_path):
    one = tuning(tmp_path, speeds=(20.0, 30.0, 15.0, 12.0, 18.0))
    told = document(one)
    assert json.loads(to_json_line(one))["finalists"] == told["finalists"]
    assert "\n" not in to_json_line(one)
    assert [line["measured_tokens_per_second"] for line in told["finalists"]] == [20.0, 30.0]
    assert {name: line["measured_tokens_per_second"] for name, line in told["others"].items()} == {
        CURRENT: 15.0,
        BUILT_IN: 12.0,
    }
    assert told["dynamic"]["measured_tokens_per_second"] == 18.0
    for line, finalist in zip(told["finalists"], one.finalists, strict=True):
        assert set(line) == LINE
        assert (line["nodes"], line["passes"], line["k"]) == (finalist.nodes, finalist.passes, finalist.k)
        assert line["predicted_tokens_per_second"] == pytest.approx(finalist.tokens_per_second, abs=1e-4)
        assert line["predicted_tokens_per_cycle"] == pytest.approx(finalist.tokens_per_cycle, abs=1e-4)
        assert line["measured_tokens_per_cycle"] == 1.5
    winner = told["winner"]
    assert set(winner) == LINE | {"speedup", "paths"}
    assert winner["speedup"] == 3.0
    assert winner["paths"] == [list(path) for path in one.finalists[1].shape.paths]
    assert told["plain"]["measured_tokens_per_second"] == one.measured[PLAIN].tokens_per_second == 10.0


def test_the_document_tells_costs_and_calibration_and_no_folder(tuning, tmp_path):
    told = document(tuning(tmp_path))
    assert told["cost"]["device"] == "a CPU"
    assert told["cost"]["verify_ms"] == {"64": {"1": 20.0, "65": 52.0}}
    assert told["cost"]["rest_ms"] == 0.5
    assert told["calibration"]["drafts"] == {"1": 198, "2": 198}  # ends unknown left out
    assert told["calibration"]["weight"] == {"1": 16.0, "2": 16.0}
    assert (told["drafter"], told["machine"]["command"][-1]) == ("mine", "here")
    sizes = [line["nodes"] for line in told["frontier"]]
    assert sizes == sorted(set(sizes))
    assert "/home/me" not in to_json_line(tuning(tmp_path))


def test_what_did_not_run_is_not_told(tuning, tmp_path):
    told = document(tuning(tmp_path))
    assert told["lossless"] is told["dynamic"] is told["plain"]["measured_tokens_per_second"] is None
    assert told["winner"]["speedup"] is None
    assert {line["measured_tokens_per_cycle"] for line in told["finalists"]} == {None}


@pytest.mark.parametrize("alike", [7, 6])
def test_lossless_is_every_answer_of_every_contender(tuning, tmp_path, alike):
    assert document(tuning(tmp_path, speeds=(20.0,) * 5, alike=alike))["lossless"] == (alike == 7)
