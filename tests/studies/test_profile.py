import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from falcon_cli.studies.__main__ import main
from falcon_cli.studies.profile import DRAFTER, HEAD, PREFILL, PYTHON, SMALL, TARGET, TREE, shares_of


def spent(work):
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        work()
    return shares_of(trace.events())


def test_operators_are_counted_for_the_range_around_them():
    rows, weight = torch.randn(64, 256), torch.randn(256, 256)

    def work():
        with record_function(TREE):
            with record_function(PREFILL):
                rows @ weight
            with record_function(TARGET):
                rows @ weight
                with record_function(HEAD):
                    rows @ weight
            with record_function(DRAFTER):
                rows.exp()
            rows.argmax()

    shares = spent(work)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares.pop(("target", SMALL), 0) < shares["target", "linear layers"]  # a look at the inputs' flags
    assert set(shares) == {
        ("target", "linear layers"),
        ("target", "LM head"),
        ("target", PYTHON),
        ("drafter", SMALL),
        ("drafter", PYTHON),
        ("tree", SMALL),
        ("tree", PYTHON),
    }


def test_nothing_of_the_prefill_is_counted():
    def work():
        with record_function(TREE):
            with record_function(PREFILL):
                for _ in range(200):
                    torch.randn(64, 256) @ torch.randn(256, 256)
            with record_function(TARGET):
                torch.randn(8).exp()

    assert ("target", "linear layers") not in spent(work)


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_the_command_prints_a_table(chat_target, capsys, kernels):
    keys = [f"target.model={chat_target}", f"target.kernels={kernels}", "methods=[ar,pld]", "max_new_tokens=6"]
    assert main(["profile", *keys]) == 0
    table = capsys.readouterr().err
    for line in ("target: linear layers", "target: attention", "target: LM head", "target: Python", "tree: Python"):
        assert line in table
    assert "a cycle, unprofiled" in table
