"""Padded batches: full, and without useless padding."""

import pytest
import torch

from falcon_cli.distill.corpus import padded
from falcon_cli.distill.corpus.padded import padded_answers, reads_padded, room
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

LENGTHS = (3, 9, 1, 6, 19, 4, 2)  # some longer than the windows of 6 and 7


@pytest.fixture(scope="module", params=["llama-gqa", "qwen2-window", "mistral-window"])
def target(request, tiny_model):
    return LoadedTarget("tiny", TargetModel(tiny_model(request.param)), None, frozenset({5, 11, 17, 30}), "fp64")


@pytest.fixture(scope="module")
def prompts():
    draw = torch.Generator().manual_seed(4)
    return [torch.randint(48, (size,), generator=draw).tolist() for size in LENGTHS]


def test_free_rows_are_filled_at_once(target, prompts, monkeypatch):
    """Never fewer rows than there could be, and no position that is padding in every row."""
    seen = []

    def advanced(*given):
        seen.append(given[-1].seen_BS)
        advance(*given)

    advance = padded._advance
    monkeypatch.setattr(padded, "_advance", advanced)
    assert len(list(padded_answers(target, prompts * 3, 12, rows=2))) == 3 * len(prompts)
    assert [len(seen_BS) for seen_BS in seen[:-12]] == [2] * (len(seen) - 12)
    assert all(bool(seen_BS[:, 0].any()) for seen_BS in seen)


def test_a_target_whose_cache_cannot_be_cut_reads_no_padding(target, monkeypatch):
    def cut(batch, places):
        raise AttributeError("no keys")

    monkeypatch.setattr(padded, "_keep", cut)
    assert not reads_padded(target)


def test_an_answer_ends_with_the_context(target):
    limit = target.model.context_limit
    assert room(target, [1] * 10, 5) == 5
    assert room(target, [1] * (limit - 3), 5) == 3
