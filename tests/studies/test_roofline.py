from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from falcon_cli.costs.table import load_costs
from falcon_cli.studies.roofline import (
    CONTEXTS,
    MACHINES,
    MADE_BY,
    NODES,
    SHAPES,
    Machine,
    RooflineRecipe,
    Shape,
    Work,
    cost_table,
    draft_cost,
    fits,
    run,
    verify_work,
)

COSTS = Path(__file__).parents[2] / "recipes" / "costs"
PLAIN = Machine("plain", 1e12, 1e9, 1e12, 1.0, 1.0, 0.0, 0.0)
"""1 GB/s, 1 TFLOP/s, launches for nothing."""
SMALL = Shape("small", layers=2, hidden=8, intermediate=16, heads=4, kv_heads=2, vocabulary=10)
H100, LAPTOP = MACHINES["h100"], MACHINES["laptop-cpu"]
SEVEN, THIRTEEN = SHAPES["vicuna-7b"], SHAPES["vicuna-13b"]
PAIRS = [(machine, shape) for machine in MACHINES.values() for shape in SHAPES.values()]
IDS = [f"{machine.name}-{shape.name}" for machine, shape in PAIRS]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("costs")
    run(RooflineRecipe(str(folder)))
    return folder


@pytest.mark.parametrize("name", IDS)
def test_the_shipped_files_are_what_the_code_gives(written, name):
    assert (COSTS / f"{name}.json").read_text() == (written / f"{name}.json").read_text(), (
        "run python -m falcon_cli.studies roofline folder=recipes/costs"
    )


def test_a_shipped_file_is_read_back_as_the_table():
    found, wanted = load_costs(COSTS / "h100-vicuna-7b.json"), cost_table(H100, SEVEN)
    assert found.verify_ms(24, 700) == pytest.approx(wanted.verify_ms(24, 700), abs=1e-3)
    assert (found.device, found.target, found.weights, found.made_by) == ("h100", "vicuna-7b", "bf16", wanted.made_by)
    assert found.draft[2].slot == pytest.approx(wanted.draft[2].slot, abs=1e-5)


def test_the_files_say_that_nothing_was_measured():
    made_by = cost_table(H100, SEVEN).made_by
    assert "not measured" in MADE_BY
    assert made_by["how"] == MADE_BY
    assert made_by["machine"]["bandwidth"] == 3.35e12
    assert made_by["shape"]["layers"] == 32


def test_the_slower_of_memory_and_arithmetic_counts_and_every_kernel_is_launched():
    assert Work(2e6, 0, 0).ms(PLAIN) == pytest.approx(2)
    assert Work(2e6, 1e9, 0).ms(PLAIN) == pytest.approx(2)
    assert Work(2e6, 3e9, 0).ms(PLAIN) == pytest.approx(3)
    assert Work(2e6, 3e9, 5).ms(replace(PLAIN, launch=1e-3)) == pytest.approx(8)
    assert Work(2e6, 0, 0).ms(replace(PLAIN, bandwidth_fraction=0.5)) == pytest.approx(4)
    assert Work(0, 3e9, 0).ms(replace(PLAIN, flops_fraction=0.5)) == pytest.approx(6)


def test_the_work_of_a_small_forward_by_hand():
    layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16  # q, k and v, output, MLP
    weights = 2 * layer + 80
    work = verify_work(SMALL, nodes=3, context=5, size=2)
    cache, activations = 2 * 2 * 4 * (5 + 6), 3 * 2 * (80 + 80)
    assert work.bytes == 2 * (weights + cache + activations) + 3 * 10 * 8
    assert work.flops == 2 * 3 * weights + 2 * (2 * 2 * 8 * 3 * (5 + 3))  # two products, a multiply-add is two
    assert work.kernels == 26


@pytest.mark.parametrize(("shape", "billions"), [(SEVEN, 6.738), (THIRTEEN, 13.016)])
def test_the_shapes_have_the_models_parameters(shape, billions):
    assert (shape.read + shape.head) / 1e9 == pytest.approx(billions, abs=2e-3)


@pytest.mark.parametrize(("machine", "shape"), PAIRS, ids=IDS)
def test_costs_grow_with_nodes_and_context(machine, shape):
    table = cost_table(machine, shape)
    assert list(table.verify) == list(CONTEXTS)
    for row in table.verify.values():
        assert list(row) == list(NODES)
        assert all(low < high for low, high in pairwise(row.values()))
    for shorter, longer in pairwise(table.verify.values()):
        assert all(shorter[nodes] < longer[nodes] for nodes in NODES)


def test_plain_decoding_on_an_h100_is_bound_by_memory():
    floor = 13.2e9 / 3.35e12 * 1e3 / 0.8  # 4.9 ms
    assert floor < cost_table(H100, SEVEN).verify_ms(1, 128) < floor + 1.0
    assert cost_table(H100, SEVEN).plain_ms(128) == pytest.approx(cost_table(H100, SEVEN).verify_ms(1, 128) + 0.3)
    doubled = cost_table(replace(H100, bandwidth=2 * H100.bandwidth), SEVEN).verify_ms(1, 128)
    assert doubled < 0.6 * cost_table(H100, SEVEN).verify_ms(1, 128)
    assert cost_table(replace(H100, flops=2 * H100.flops), SEVEN).verify == cost_table(H100, SEVEN).verify


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_a_larger_target_is_more_expensive_by_its_weights(machine):
    seven, thirteen = cost_table(machine, SEVEN), cost_table(machine, THIRTEEN)
    assert thirteen.verify_ms(1, 128) / seven.verify_ms(1, 128) == pytest.approx(12.85 / 6.61, rel=0.05)
    assert all(thirteen.draft[k].first > seven.draft[k].first for k in (1, 2, 3, 4))


def test_a_gpu_is_flat_to_more_nodes_than_a_cpu():
    def flat(machine):
        row = cost_table(machine, SEVEN).verify[512]
        return max(nodes for nodes in NODES if row[nodes] < 1.1 * row[1])

    assert flat(H100) == 128
    assert flat(LAPTOP) == 8
    row = cost_table(LAPTOP, SEVEN).verify[512]
    assert row[128] / row[64] == pytest.approx(2, rel=0.02)  # arithmetic alone


def test_the_faster_machine_is_faster():
    speeds = [
        cost_table(MACHINES[name], SEVEN).verify_ms(1, 512) for name in ("h100", "a100", "rtx-4090", "laptop-cpu")
    ]
    assert speeds == sorted(speeds)
    assert speeds[3] > 10 * speeds[2]


def test_a_pass_reads_the_lstms_recurrent_weights_again_for_every_token():
    one, two, three = (draft_cost(PLAIN, SEVEN, k) for k in (1, 2, 3))
    step = 2 * 8 * 4096**2 / 1e9 * 1e3
    assert two.further - one.further == pytest.approx(step)
    assert three.further - two.further == pytest.approx(step)
    cache = 2 * 2 * 4096 * 1024 / 1e9 * 1e3
    assert one.further == pytest.approx(2 * (20 * 4096**2 + SEVEN.layer) / 1e9 * 1e3 + cache)
    side_by_side = [draft_cost(PLAIN, SEVEN, k, "position") for k in (1, 2, 3)]
    assert [cost.further for cost in side_by_side] == [one.further] * 3


def test_rows_cost_their_arithmetic_and_slots_the_lm_head():
    one, four = draft_cost(PLAIN, SEVEN, 1), draft_cost(PLAIN, SEVEN, 4)
    assert one.row == pytest.approx(2 * (20 * 4096**2 + SEVEN.layer) / 1e12 * 1e3)
    assert four.row == pytest.approx(4 * one.row)
    assert one.slot == pytest.approx(2 * 4096 * 32000 / 1e9 * 1e3)
    assert one.feature == pytest.approx(2 * 4096 * 32000 / 1e12 * 1e3)
    chain = 0.75 * 5 * 4096**2  # of four slots three are later ones
    assert four.slot - one.slot == pytest.approx(2 * chain / 1e9 * 1e3)
    assert four.feature - one.feature == pytest.approx(2 * chain / 1e12 * 1e3)
    assert one.first > one.further  # several committed tokens against one


@pytest.mark.parametrize(("machine", "shape"), PAIRS, ids=IDS)
def test_a_pass_is_cheap_beside_the_target(machine, shape):
    table = cost_table(machine, shape)
    for k, cost in table.draft.items():
        assert cost.first + k * cost.slot < 0.3 * table.verify_ms(1, 512)
        assert cost.row < 0.3 * cost.further


def test_what_does_not_fit_a_machine_is_marked():
    marked = [name for name, (machine, shape) in zip(IDS, PAIRS, strict=True) if not fits(machine, shape)]
    assert marked == ["rtx-4090-vicuna-13b"]
    assert cost_table(MACHINES["rtx-4090"], THIRTEEN).made_by["fits"] is False
