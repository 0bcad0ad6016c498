"""All passes at once on known text: what drafting pass by pass predicts."""

import pytest
import torch

from falcon_cli.core import Scores
from falcon_cli.drafter.masks import relaxed_causal_BLL
from falcon_cli.drafter.propose import Falcon
from falcon_cli.drafter.unroll import streams_mask, unrolled
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape

LENGTH, HIDDEN = 12, 32


@pytest.fixture(scope="module")
def target(tiny_model):
    return TargetModel(tiny_model("llama-gqa", 1))


def drawn(picture):
    return [[mark == "1" for mark in line.replace("|", "").split()] for line in picture.strip().splitlines()]


def test_the_mask_is_the_one_drawn():
    blocks = streams_mask(torch.tensor([3]), 3, 1, 2)[0, 0]
    assert blocks[:3].tolist() == drawn("""
        1 . . | . . .
        1 1 . | . . .
        1 1 1 | . . .
    """)
    assert blocks[4:].tolist() == drawn("""
        1 . . | . 1 .
        1 1 . | . . 1
    """)
    whole = streams_mask(torch.tensor([6]), 6, 2, 2)[0, 0]
    assert torch.equal(whole, blocks.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_padding_is_seen_by_none_but_itself():
    mask = streams_mask(torch.tensor([4]), 6, 2, 1)[0, 0]
    assert mask[:, 4:].nonzero().tolist() == [[4, 0], [5, 1]]


def text():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(48, (LENGTH + 1,), generator=generator)
    return tokens, torch.randn(LENGTH, HIDDEN, generator=generator, dtype=torch.float64)


def passes(network, target, count):
    tokens, features_LD = text()
    embedding = target.model.get_input_embeddings().weight
    embedded = embedding[tokens[1:]][None]
    before = embedding[tokens[1:].roll(1 - network.k)][None]
    with torch.no_grad():
        return unrolled(network, embedded, features_LD[None], before, torch.tensor([LENGTH]), count), before


@pytest.mark.parametrize("mixer", ["time", "position", "linear"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_first_pass_is_the_network_s(target, tiny_network, k, mixer):
    network = tiny_network(target.decoder, k=k, mixer=mixer)
    (first, *_), before = passes(network, target, 2)
    tokens, features_LD = text()
    embedded = target.model.get_input_embeddings().weight[tokens[1:]][None]
    mask = relaxed_causal_BLL(torch.tensor([LENGTH]), LENGTH, k, 0)
    with torch.no_grad():
        torch.testing.assert_close(first, network(embedded, features_LD[None], mask, before), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mixer", ["time", "position", "linear"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_later_passes_are_those_of_drafting(target, tiny_network, monkeypatch, k, mixer):
    """A draft from position 6 on whose tokens are forced to be the text's own."""
    network = tiny_network(target.decoder, k=k, mixer=mixer)
    predicted, _ = passes(network, target, 2)
    tokens, features_LD = text()
    drafter = Falcon(network, target, TreeShape.chain(2 * k))
    known = 6
    drafter.start(tokens[:known], Scores(torch.zeros(1, 48), features_LD[:known]))
    told = iter(tokens[known + 1 :].tolist())
    monkeypatch.setattr(drafter, "_candidates", lambda features, slot: torch.tensor([next(told)]))
    drafter._tokens.append(int(tokens[known]))
    drafted_T = torch.zeros(2 * k + 1, dtype=torch.long)
    drafted_T[0] = tokens[known]
    *_, features_TD = drafter.passes(drafter._plan(2 * k), drafted_T)
    network.attend_by("sdpa")
    first, second = predicted[0][0], predicted[1][0]
    torch.testing.assert_close(features_TD[:k], first[known - k : known], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(features_TD[k : 2 * k], second[known : known + k], rtol=1e-9, atol=1e-9)
