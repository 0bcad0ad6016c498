"""The LM head on the draft vocabulary: torch's and the kernels', and what a text adds to it."""

import gguf
import pytest
import torch

from falcon_cli.drafters.shared.head import NativeHead, TorchHead, head_of
from falcon_cli.native.build import load_kernels
from falcon_cli.native.quantized import QuantizedTensor
from falcon_cli.native.swap import swap_model
from falcon_cli.studies.families import built
from falcon_cli.target.forward.logits import PLAIN, LogitForm
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.model import TargetModel

HEAD_VD = torch.randn(90, 32, generator=torch.Generator().manual_seed(9))
FIXED_W = torch.arange(0, 90, 3)


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    load_kernels()


def rows_of(count):
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(count))


def heads(vocabulary_W=FIXED_W, spare=8):
    """The same LM head twice."""
    return (
        TorchHead(HEAD_VD, vocabulary_W, torch.float32, spare),
        NativeHead(HEAD_VD, vocabulary_W, torch.float32, spare, "fp32"),
    )


def likeliest(rows, allowed, count):
    """Ids of the best tokens among some."""
    allowed = torch.tensor(sorted(allowed))
    return allowed[(rows @ HEAD_VD[allowed].T).topk(count).indices]


@pytest.mark.parametrize("vocabulary_W", [None, FIXED_W])
@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_the_best_tokens_come_best_first(count, vocabulary_W):
    rows = rows_of(5)
    ours, native = heads(vocabulary_W)
    allowed = range(90) if vocabulary_W is None else FIXED_W.tolist()
    assert ours.choices == native.choices == len(allowed)
    assert torch.equal(ours.best(rows, count), likeliest(rows, allowed, count))
    assert torch.equal(native.best(rows, count), ours.best(rows, count))
    for mine, theirs in zip(ours.likely(rows, count), native.likely(rows, count), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_of_equal_tokens_the_first_is_best():
    assert heads()[1].best(torch.zeros(1, 32), 4).tolist() == [[0, 3, 6, 9]]


@pytest.mark.parametrize("place", [0, 1])
def test_the_words_of_a_text_may_be_drafted_in_it(place):
    head, rows = heads()[place], rows_of(200)
    head.reset([1, 2, 3, 2])  # 3 is there anyway
    head.admit([40])
    allowed = {*FIXED_W.tolist(), 1, 2, 40}
    best = head.best(rows, 3)
    assert torch.equal(best, likeliest(rows, allowed, 3))
    assert {1, 2, 40} <= set(best.flatten().tolist())
    log_odds, ids = head.likely(rows, 3)
    assert torch.equal(ids, best)
    odds = (rows @ HEAD_VD[sorted(allowed)].T).log_softmax(-1)
    torch.testing.assert_close(log_odds, odds.topk(3).values)
    assert head.choices == len(FIXED_W)


@pytest.mark.parametrize("place", [0, 1])
def test_the_next_text_begins_with_the_fixed_ones(place):
    head, rows = heads()[place], rows_of(200)
    head.reset([1, 2])
    head.reset([4])
    assert torch.equal(head.best(rows, 2), likeliest(rows, {*FIXED_W.tolist(), 4}, 2))
    head.reset([])
    assert torch.equal(head.best(rows, 2), likeliest(rows, FIXED_W.tolist(), 2))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("at_once", [True, False])
def test_where_there_is_no_more_room_the_oldest_go(place, at_once):
    head, rows = heads(spare=3)[place], rows_of(200)
    said = [1, 2, 4, 5, 2, 7, 1]
    head.reset(said if at_once else [])
    for token in [] if at_once else said:
        head.admit([token])
    assert torch.equal(head.best(rows, 2), likeliest(rows, {*FIXED_W.tolist(), 5, 7, 1}, 2))


def test_a_head_of_bytes_takes_words_in_as_if_they_had_been_there():
    rows = rows_of(50)
    opened = NativeHead(HEAD_VD, FIXED_W, torch.float32)
    opened.reset([1, 2, 40])
    there = NativeHead(HEAD_VD, torch.tensor(sorted([*FIXED_W.tolist(), 1, 2, 40])), torch.float32)
    for mine, theirs in zip(opened.likely(rows, 5), there.likely(rows, 5), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("some", [True, False])
def test_the_head_is_the_target_s_on_what_may_be_drafted(tiny_model, some):
    model = tiny_model("llama-gqa", dtype=torch.float32)
    vocabulary_W = torch.arange(0, 48, 3) if some else None
    rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    weight = model.get_output_embeddings().weight
    allowed = torch.arange(48) if vocabulary_W is None else vocabulary_W
    expected = allowed[(rows @ weight[allowed].T).argmax(-1)]
    plain = head_of(TargetModel(model), vocabulary_W, torch.float32)
    native = head_of(TargetModel(model, native=swap_model(model, "fp32")), vocabulary_W, torch.float32)
    assert isinstance(plain, TorchHead)
    assert isinstance(native, NativeHead)
    assert torch.equal(plain.best(rows, 1)[:, 0], expected)
    assert torch.equal(native.best(rows, 1)[:, 0], expected)


@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_a_small_head_of_all_tokens_is_the_targets_own_matrix(tiny_model, kind):
    model = tiny_model("llama-gqa", dtype=torch.float32)
    target = TargetModel(model, native=swap_model(model, kind))
    whole, some = (head_of(target, vocabulary_W, torch.float32) for vocabulary_W in (None, torch.arange(20)))
    assert (whole._whole is target.head.matrix) == (kind == "int8")
    assert some._whole is not target.head.matrix
    rows = torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(whole.best(rows, 3), NativeHead(target.head.weight, None, torch.float32).best(rows, 3))


def test_a_head_may_lie_in_a_files_blocks():
    numbers = gguf.quantize(HEAD_VD.numpy(), gguf.GGMLQuantizationType.Q8_0)
    blocks_VD, rows = QuantizedTensor("Q8_0", torch.from_numpy(numbers), (90, 32)), rows_of(40)
    for vocabulary_W in (None, FIXED_W):
        held = NativeHead(blocks_VD, vocabulary_W, torch.float32, 8, "fp32")
        same = NativeHead(blocks_VD[:], vocabulary_W, torch.float32, 8, "fp32")
        for head in (held, same):
            head.reset([1, 2, 40])
        assert torch.equal(held.best(rows, 5), same.best(rows, 5))


BIAS_V = 3 * torch.randn(90, generator=torch.Generator().manual_seed(4))


def biased(vocabulary_W=FIXED_W, form=PLAIN):
    """The same biased LM head twice."""
    return (
        TorchHead(HEAD_VD, vocabulary_W, torch.float32, 8, bias_V=BIAS_V, form=form),
        NativeHead(HEAD_VD, vocabulary_W, torch.float32, 8, "fp32", bias_V=BIAS_V, form=form),
    )


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("vocabulary_W", [None, FIXED_W])
def test_biases_count_and_come_with_the_words_of_a_text(place, vocabulary_W):
    head, rows = biased(vocabulary_W)[place], rows_of(60)
    head.reset([1, 2, 40])
    allowed = torch.arange(90) if vocabulary_W is None else torch.tensor(sorted({*FIXED_W.tolist(), 1, 2, 40}))
    logits = rows @ HEAD_VD[allowed].T + BIAS_V[allowed]
    assert torch.equal(head.best(rows, 5), allowed[logits.topk(5).indices])
    log_odds, ids = head.likely(rows, 5)
    assert torch.equal(ids, head.best(rows, 5))
    torch.testing.assert_close(log_odds, logits.log_softmax(-1).topk(5).values)
    assert not torch.equal(head.best(rows, 5), heads(vocabulary_W)[place].best(rows, 5))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("form", [LogitForm(0.125), LogitForm(cap=2.0), LogitForm(2.0, 5.0)])
def test_log_probabilities_are_those_of_scaled_and_capped_logits(place, form):
    head, rows = biased(None, form)[place], rows_of(9)
    log_odds, _ = head.likely(rows, 4)
    expected = form(rows @ HEAD_VD.T + BIAS_V).log_softmax(-1)
    torch.testing.assert_close(log_odds, expected.topk(4).values)


@pytest.mark.parametrize("family", ["phi", "gemma2", "granite"])
def test_a_target_s_bias_and_form_are_taken(family):
    twin, _ = made_twin(built(family))
    target = TargetModel(twin.float())
    features_TD = target.prefill(torch.tensor([5, 9, 40])).features_TD
    log_odds, ids = head_of(target, None, torch.float32).likely(features_TD, 3)
    expected = target.logits(features_TD).log_softmax(-1).topk(3)
    torch.testing.assert_close(log_odds, expected.values)
    assert torch.equal(ids, expected.indices)
