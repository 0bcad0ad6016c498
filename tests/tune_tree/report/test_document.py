import json

import pytest

from falcon_cli.tune_tree.measure.validation import PLAIN
from falcon_cli.tune_tree.report.document import document, to_json_line
from falcon_cli.tune_tree.search.search import BUILT_IN, CURRENT

LINE = {
    "nodes",
    "passes",
    "k",
    "predicted_tokens_per_second",
    "measured_tokens_per_second",
    "predicted_tokens_per_cycle",
    "measured_tokens_per_cycle",
}


def test_the_document_tells_what_ran(tuning_result, tmp_path):
    result = tuning_result(tmp_path, tree_speeds=(20.0, 30.0, 15.0, 12.0, 18.0))
    facts = document(result)
    assert json.loads(to_json_line(result))["finalists"] == facts["finalists"]
    assert "\n" not in to_json_line(result)
    assert [line["measured_tokens_per_second"] for line in facts["finalists"]] == [20.0, 30.0]
    assert {name: line["measured_tokens_per_second"] for name, line in facts["others"].items()} == {
        CURRENT: 15.0,
        BUILT_IN: 12.0,
    }
    assert facts["dynamic"]["measured_tokens_per_second"] == 18.0
    for line, finalist in zip(facts["finalists"], result.search.finalists, strict=True):
        assert set(line) == LINE
        assert (line["nodes"], line["passes"], line["k"]) == (finalist.nodes, finalist.passes, finalist.k)
        assert line["predicted_tokens_per_second"] == pytest.approx(finalist.tokens_per_second, abs=1e-4)
        assert line["predicted_tokens_per_cycle"] == pytest.approx(finalist.tokens_per_cycle, abs=1e-4)
        assert line["measured_tokens_per_cycle"] == 1.5
    winner = facts["winner"]
    assert set(winner) == LINE | {"speedup", "paths"}
    assert winner["speedup"] == 3.0
    assert winner["paths"] == [list(path) for path in result.search.finalists[1].shape.paths]
    assert facts["plain"]["measured_tokens_per_second"] == result.measured[PLAIN].tokens_per_second == 10.0


def test_the_document_tells_costs_and_calibration_and_no_folder(tuning_result, tmp_path):
    facts = document(tuning_result(tmp_path))
    assert facts["cost"]["device"] == "a CPU"
    assert facts["cost"]["verify_ms"] == {"64": {"1": 20.0, "65": 52.0}}
    assert facts["cost"]["rest_ms"] == 0.5
    assert facts["calibration"]["drafts"] == {"1": 198, "2": 198}  # ends unknown left out
    assert facts["calibration"]["weight"] == {"1": 16.0, "2": 16.0}
    assert (facts["drafter"], facts["machine"]["command"][-1]) == ("mine", "here")
    sizes = [line["nodes"] for line in facts["frontier"]]
    assert sizes == sorted(set(sizes))
    assert "/home/me" not in to_json_line(tuning_result(tmp_path))


def test_what_did_not_run_is_not_facts(tuning_result, tmp_path):
    facts = document(tuning_result(tmp_path))
    assert facts["lossless"] is facts["dynamic"] is facts["plain"]["measured_tokens_per_second"] is None
    assert facts["winner"]["speedup"] is None
    assert {line["measured_tokens_per_cycle"] for line in facts["finalists"]} == {None}


@pytest.mark.parametrize("alike", [7, 6])
def test_lossless_is_every_answer_of_every_contender(tuning_result, tmp_path, alike):
    assert document(tuning_result(tmp_path, tree_speeds=(20.0,) * 5, alike=alike))["lossless"] == (alike == 7)
