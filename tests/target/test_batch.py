"""Texts that are read together get the tokens that each gets alone."""

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.errors import FalconError
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.target.batch import TextBatch, suits_batch
from falcon_cli.target.model import TargetModel

LENGTHS = (7, 1, 40, 3, 130)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def target(request, tiny_model):
    load_kernels()
    model = tiny_model("llama-gqa", seed=5, dtype=torch.float32)
    return TargetModel(model, native=swap_model(model, request.param))


@pytest.fixture(scope="module")
def prompts():
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(48, (length,), generator=draw).tolist() for length in LENGTHS]


def alone(target, prompt, tokens):
    return complete(target, Autoregressive(target.device), prompt, Stop((), tokens)).ids


def test_texts_that_join_and_leave(target, prompts):
    """They come one after the other and are of different lengths; long prompts are read in pieces."""
    batch, given = TextBatch(target, rows=16), {number: [] for number in range(len(prompts))}
    waiting = list(enumerate(prompts))
    while waiting or len(batch):
        if waiting and len(batch) < 3:
            number, prompt = waiting.pop(0)
            batch.add(number, prompt, 5 + 4 * number)
        for number, token in batch.step():
            given[number].append(token)
            if len(given[number]) == 5 + 4 * number:
                batch.drop(number)
    assert given == {number: alone(target, prompt, 5 + 4 * number) for number, prompt in enumerate(prompts)}


def test_many_texts_at_once(target):
    draw = torch.Generator().manual_seed(2)
    prompts = [torch.randint(48, (1 + number % 9,), generator=draw).tolist() for number in range(40)]
    batch = TextBatch(target)
    for number, prompt in enumerate(prompts):
        batch.add(number, prompt, 6)
    given = [batch.step() for _ in range(6)]
    for number, prompt in enumerate(prompts):
        assert [dict(step)[number] for step in given] == alone(target, prompt, 6)


def test_a_forward_reads_so_many_rows_and_running_texts_never_wait(target, prompts, monkeypatch):
    batch, sizes, real = TextBatch(target, rows=16), [], target.native.decoder.read_together
    monkeypatch.setattr(
        target.native.decoder, "read_together", lambda rows, *more: sizes.append(len(rows)) or real(rows, *more)
    )
    for number, prompt in enumerate(prompts):
        batch.add(number, prompt, 30)
    running: set[int] = set()
    for _ in range(20):
        given = dict(batch.step())
        assert running <= given.keys()
        running = set(given)
    assert running == set(range(len(prompts)))
    assert max(sizes) == 16


def test_a_text_that_is_too_long_is_refused(target):
    with pytest.raises(FalconError, match="context of 256"):
        TextBatch(target).add(0, [1] * 250, 7)


def test_only_exact_kernels_read_texts_together(target, tiny_model):
    assert suits_batch(target)
    plain = TargetModel(tiny_model("llama-gqa"))
    assert not suits_batch(plain)
    with pytest.raises(AssertionError, match="only exact kernels"):
        TextBatch(plain)


def test_scores_that_are_no_numbers_choose_no_token(tiny_model):
    model = tiny_model("llama-gqa", seed=5, dtype=torch.float32)
    model.get_input_embeddings().weight.data[3] = float("nan")
    target = TargetModel(model, native=swap_model(model, "fp32"))
    batch = TextBatch(target)
    batch.add(0, [3], 4)
    with pytest.raises(FalconError, match="not finite"):
        batch.step()
