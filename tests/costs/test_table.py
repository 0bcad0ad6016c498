import json

import pytest

from falcon_cli.costs.table import CostTable, DraftCost, load_costs, save_costs
from falcon_cli.errors import FalconError
from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape

PARTS = DraftCost(first=1000, further=100, row=10, slot=1, feature=0.01)
VERIFY = {100: {1: 10.0, 5: 14.0, 9: 22.0}, 300: {1: 20.0, 5: 28.0}}
TABLE = CostTable("a machine", "a target", "fp32", VERIFY, {2: PARTS}, rest=0.5, made_by={"rounds": 3})
DOCUMENT = {
    "device": "a machine",
    "target": "a target",
    "weights": "fp32",
    "verify_ms": {"128": {"1": 18.0, "8": 24}},
    "draft_ms": {"2": {"first": 1, "pass": 0.5, "row": 0.1, "slot": 0.3, "feature": 0}},
    "rest_ms": 0.2,
}


@pytest.mark.parametrize(
    ("nodes", "context", "expected"),
    [
        (1, 100, 10.0),
        (5, 100, 14.0),
        (2, 100, 11.0),
        (7, 100, 18.0),
        (13, 100, 30.0),  # the last piece goes on
        (9, 300, 36.0),
        (1, 200, 15.0),
        (3, 150, 15.0),  # 12 and 24
        (1, 500, 30.0),
        (1, 20, 10.0),  # nothing is cheaper than at the shortest context measured
        (0, 100, 10.0),
    ],
)
def test_costs_run_on_straight_lines(nodes, context, expected):
    assert TABLE.verify_ms(nodes, context) == pytest.approx(expected)


def test_a_context_alone_serves_everywhere():
    table = CostTable("", "", "", {64: {1: 10.0, 3: 12.0}}, {}, 0.0)
    assert [table.verify_ms(2, context) for context in (1, 64, 999)] == [11.0] * 3


@pytest.mark.parametrize(
    ("paths", "chained", "expected"),
    [
        ([], False, 0),
        ([(0,)], False, 1001.01),  # the root's feature
        ([(0,), (1,), (2,)], True, 1001.01),  # siblings share it
        ([(0,), (1,), (0, 0), (1, 0)], False, 1002.02),  # unchained, a depth's nodes share a row's feature …
        ([(0,), (1,), (0, 0), (1, 0)], True, 1002.03),  # … chained, each parent has its own
        ([(0,), (0, 0), (0, 0, 0)], False, 1113.03),  # a further pass of one row
        ([(0,), (0, 0), (0, 1), (0, 0, 0), (0, 1, 0), (0, 1, 1)], False, 1123.04),  # of two
        ([(0,) * depth for depth in range(1, 6)], False, 1225.05),  # three passes
    ],
)
def test_a_draft_costs_its_parts(paths, chained, expected):
    shape = TreeShape.from_paths(paths)
    passes = passes_of(shape, 2, chained)
    assert PARTS.of(passes) == pytest.approx(expected)
    cycle = TABLE.cycle_ms(passes, len(shape), 2, 100)
    assert cycle == pytest.approx(TABLE.verify_ms(len(shape), 100) + expected + 0.5)


def test_a_token_decoded_plainly_costs_one_node_and_the_rest():
    assert TABLE.plain_ms(200) == 15.5


def test_what_was_saved_is_loaded(tmp_path):
    save_costs(tmp_path / "costs.json", TABLE)
    assert load_costs(tmp_path / "costs.json") == TABLE
    document = json.loads((tmp_path / "costs.json").read_text())
    assert document["verify_ms"]["300"] == {"1": 20.0, "5": 28.0}
    assert document["draft_ms"] == {"2": {"first": 1000, "pass": 100, "row": 10, "slot": 1, "feature": 0.01}}


def test_a_table_by_hand_needs_no_more_than_its_numbers(tmp_path):
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({**DOCUMENT, "made_by": "me"}))
    table = load_costs(file)
    assert table.plain_ms(5) == pytest.approx(18.2)
    assert table.draft[2] == DraftCost(1, 0.5, 0.1, 0.3, 0)
    save_costs(file, table)
    assert load_costs(file) == table


def without(key):
    return {name: value for name, value in DOCUMENT.items() if name != key}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ("{", "not JSON"),
        ([], "it must be one JSON object"),
        (without("verify_ms"), "verify_ms is missing"),
        (without("draft_ms"), "draft_ms is missing"),
        (without("rest_ms"), "rest_ms is missing"),
        (without("device"), "device is missing"),
        (DOCUMENT | {"target": 7}, "device, target and weights must be text"),
        (DOCUMENT | {"rest_ms": -1}, "rest_ms must be milliseconds, not -1"),
        (DOCUMENT | {"rest_ms": True}, "rest_ms must be milliseconds, not true"),
        (DOCUMENT | {"rest_ms": float("nan")}, "rest_ms must be milliseconds, not NaN"),
        (DOCUMENT | {"rest_ms": 10**400}, "int too large"),
        (DOCUMENT | {"verify_ms": {"128": {"1": "18", "8": 24}}}, 'verify_ms 128 1 must be milliseconds, not "18"'),
        (DOCUMENT | {"verify_ms": {"128": {"1": 0, "8": 24}}}, "verify_ms must be more than 0"),
        (DOCUMENT | {"verify_ms": {"128": {"8": 24, "9": 25}}}, "verify_ms needs a context, and for each 1 node"),
        (DOCUMENT | {"verify_ms": {"128": {"1": 18}}}, "verify_ms needs a context, and for each 1 node and some more"),
        (DOCUMENT | {"verify_ms": {}}, "verify_ms needs a context"),
        (DOCUMENT | {"verify_ms": {"128": [18, 24]}}, "'list' object has no attribute 'items'"),
        (DOCUMENT | {"verify_ms": {"0": {"1": 1, "8": 2}}}, '"0" must be a whole number from 1'),
        (DOCUMENT | {"verify_ms": {"128": {"1": 1, "2.5": 2}}}, '"2.5" must be a whole number from 1'),
        (DOCUMENT | {"draft_ms": {}}, "draft_ms names no k"),
        (DOCUMENT | {"draft_ms": {"two": {}}}, '"two" must be a whole number from 1'),
        (DOCUMENT | {"draft_ms": {"2": {"first": 1}}}, "pass is missing"),
    ],
)
def test_what_is_no_cost_table_is_refused_in_one_line(tmp_path, document, fault):
    file = tmp_path / "costs.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(FalconError, match=f"is no cost table: {fault}") as caught:
        load_costs(file)
    assert str(caught.value).startswith(f"{file} is no cost table")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FalconError, match=r"cannot read the cost table .*nowhere.json: No such file"):
        load_costs(tmp_path / "nowhere.json")
