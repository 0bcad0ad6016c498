"""All passes at once predict what the engine's drafter predicts pass by pass.

The models are float64: the two differ only in the order of sums.
"""

import pytest
import torch

from falcon_cli.core import Scores
from falcon_cli.drafters.falcon.blocks import Blocks
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.falcon.unroll import unrolled
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape

VOCAB, HIDDEN, BLOCKS, PASSES = 48, 32, 5, 3
FORMS = [
    (k, mixer, ours)  # ours: normalised, from the block's newest, chained; else the paper's network
    for k in range(1, 4)
    for mixer in ("time", "position", "linear")
    for ours in (True, False)
]
DRAWN = """
    1 . . | . . .
    1 1 . | . . .
    1 1 1 | . . .
    . . . | 1 . .
    1 . . | . 1 .
    1 1 . | . . 1
"""


@pytest.fixture(scope="module")
def target(tiny_model):
    return TargetModel(tiny_model("llama-gqa", 1), chunk=5)


@pytest.fixture
def network(target, tiny_network):
    def build(k, mixer, ours=True):
        form = {} if ours else {"normalise": False, "start": "own", "chained": False}
        return tiny_network(target.decoder, k, k=k, mixer=mixer, **form)

    return build


class Text:
    """Random tokens and features: position i reads feature i with token i + 1."""

    def __init__(self, target, k, seed=0):
        generator = torch.Generator().manual_seed(seed)
        length = BLOCKS * k
        self.tokens_L = torch.randint(VOCAB, (length + k + 1,), generator=generator)
        self.features_LD = torch.randn(length, HIDDEN, generator=generator, dtype=torch.float64)
        embedded_LD = target.model.get_input_embeddings().weight[self.tokens_L]
        self.embedded_LD, self.before_LD = embedded_LD[1 : length + 1], embedded_LD[k : k + length]

    def predicted(self, network, passes=PASSES, padding=0):
        length = len(self.features_LD)
        inputs = (self.embedded_LD, self.features_LD, self.before_LD)
        padded = [torch.cat([one, torch.full((padding, HIDDEN), 9.0, dtype=torch.float64)])[None] for one in inputs]
        return [out[0, :length] for out in unrolled(network, *padded, torch.tensor([length]), passes)]


def blocks_of(drawing, k):
    """A drawing of blocks as a mask of positions."""
    rows = [row.replace("|", "").split() for row in drawing.strip().splitlines()]
    mask = torch.tensor([[cell == "1" for cell in row] for row in rows])
    return mask.repeat_interleave(k, 0).repeat_interleave(k, 1)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_streams_see_what_is_drawn(k):
    assert torch.equal(Blocks.of_texts(torch.tensor([3 * k]), 3 * k, k, streams=2).mask_BLL[0, 0], blocks_of(DRAWN, k))


def test_padding_is_seen_by_none_but_itself():
    mask = Blocks.of_texts(torch.tensor([4, 6]), 6, 2, streams=2).mask_BLL[:, 0]
    assert torch.equal(mask[1], blocks_of(DRAWN, 2))
    for column in (4, 5, 10, 11):
        assert mask[0][:, column].nonzero().flatten().tolist() == [column]
    real = [0, 1, 2, 3, 6, 7, 8, 9]
    assert torch.equal(mask[0][real][:, real], mask[1][real][:, real])


@pytest.mark.parametrize(("k", "mixer", "ours"), FORMS)
def test_the_first_pass_is_the_network_s_own(target, network, k, mixer, ours):
    net, text = network(k, mixer, ours), Text(target, k)
    length = len(text.features_LD)
    mask = Blocks.of_texts(torch.tensor([length]), length, k, 0)
    whole_LD = net(text.embedded_LD[None], text.features_LD[None], mask, text.before_LD[None])[0]
    torch.testing.assert_close(text.predicted(net)[0], whole_LD, rtol=1e-9, atol=1e-9)


def drafted(target, net, text, known):
    """Features that the engine's drafter predicts at each depth after `known` tokens, the drafted ones the text's."""
    chain = TreeShape.chain(PASSES * net.k)
    drafter = Falcon(net, target, chain).with_tree(
        chain, lambda features, slot: text.tokens_L[known + slot.begin : known + slot.end]
    )
    drafter.start(text.tokens_L[:known], Scores.of(torch.zeros(1, VOCAB), text.features_LD[:known]))
    drafter._tokens.append(int(text.tokens_L[known]))
    plan = drafter.plan(PASSES * net.k)
    tokens_T = torch.empty(len(plan.parents), dtype=torch.long)
    tokens_T[0] = text.tokens_L[known]
    *_, features_TD = drafter.passes(plan, tokens_T)
    return features_TD[:-1]


@pytest.mark.parametrize(("k", "mixer", "ours"), FORMS)
def test_every_pass_from_every_block_is_the_engine_s(target, network, k, mixer, ours):
    net, text = network(k, mixer, ours), Text(target, k)
    predicted = text.predicted(net)
    for block in range(BLOCKS - PASSES + 1):
        mine = [predicted[number][(block + number) * k : (block + number + 1) * k] for number in range(PASSES)]
        engine_PD = drafted(target, net, text, known=(block + 1) * k)
        torch.testing.assert_close(torch.cat(mine), engine_PD, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mixer", ["time", "position", "linear"])
def test_padding_does_not_matter(target, network, mixer):
    net, text = network(2, mixer), Text(target, 2)
    for plain, padded in zip(text.predicted(net), text.predicted(net, padding=4), strict=True):
        torch.testing.assert_close(plain, padded, rtol=1e-9, atol=1e-9)


def test_fewer_passes_are_the_first_of_more(target, network):
    net, text = network(2, "time"), Text(target, 2)
    for one, other in zip(text.predicted(net, 2), text.predicted(net, 3)[:2], strict=True):
        assert torch.equal(one, other)
