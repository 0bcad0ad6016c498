"""Drafting cycle by cycle predicts what the whole-sequence network predicts.

The models are float64: the two differ only in the order of sums.
"""

import pytest
import torch

from falcon_cli.core import Draft, Scores, Verdict
from falcon_cli.drafters.falcon.blocks import Blocks
from falcon_cli.drafters.falcon.dynamic import DynamicFalcon
from falcon_cli.drafters.falcon.propose import Falcon, FalconOptions
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.kv_cache import StaticCache
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape

VOCAB, HIDDEN = 48, 32
FORMS = [
    (k, mixer, ours)  # ours: normalised, from the block's newest, chained; else the paper's network
    for k in range(1, 5)
    for mixer in ("time", "position", "linear")
    for ours in (True, False)
]


class Reference:
    """A text with its features, and what the network makes of the whole of it at once."""

    def __init__(self, network, target, prompt_L, features_LD):
        self.network, self.target = network, target
        self.tokens, self.features = prompt_L.tolist(), list(features_LD)
        """Position j of the drafter reads feature j with token j + 1."""

    def keep(self, tokens, features):
        self.tokens.extend(tokens)
        self.features.extend(features)

    def predict(self, drafted_tokens, drafted_features, attention="sdpa"):
        """Predicted features [L, D] of the text with a drafted branch behind it.

        Blocks end where the drafted features do; tokens may go on, as later slots read the one before theirs.
        """
        known = len(self.features)
        tokens = self.tokens[1:] + drafted_tokens
        features_LD = torch.stack([*self.features, *drafted_features])
        length, k = len(features_LD), self.network.k
        mask_BLL = Blocks.of_texts(torch.tensor([length]), length, k, phase=-known % k)
        self.network.attend_by(attention)
        padded = torch.tensor(tokens + [0] * (length + k))
        embedded_LD = self.target.model.get_input_embeddings().weight[padded]
        before_LD = embedded_LD[k - 1 : k - 1 + length]
        out_BLD = self.network(embedded_LD[None, :length], features_LD[None], mask_BLL, before_LD[None])
        self.network.attend_by(self.target.attention)
        return out_BLD[0]


def drafted_by(drafter, token, room):
    """A draft, and the features that its passes predicted."""
    plan = drafter.plan(min(room, drafter.shape.height))
    drafter._tokens.append(token)
    tokens_T = torch.full((len(plan.parents),), -1)
    tokens_T[0] = token
    steps = list(drafter.passes(plan, tokens_T))
    features_TD = steps[-1] if steps else None
    return Draft(tokens_T, plan.parents, plan.depth_T, plan.ancestors_TT), features_TD


def check_draft(reference, drafter, draft, features_TD, shape):
    """Every parent's feature, and every node's token, against the whole-sequence network on the node's own way."""
    k = drafter.k
    for node in sorted(set(draft.parents[1:])):
        way = draft.ancestors_TT[node].nonzero().squeeze(-1).tolist()  # from the root down
        depth = len(way) - 1
        read = depth // k * k  # drafted positions that the node's row has read
        whole_LD = reference.predict(draft.tokens_T[way].tolist(), [features_TD[above] for above in way[:read]])
        expected = whole_LD[-k + depth % k]
        torch.testing.assert_close(features_TD[node], expected, rtol=1e-9, atol=1e-9)
        best = drafter.head.best(expected[None], 8)[0]
        for child in (child for child, parent in enumerate(draft.parents) if parent == node and child):
            token = best[shape.ranks[child]]
            assert draft.tokens_T[child] == token


@pytest.fixture(scope="module")
def target(tiny_model):
    return TargetModel(tiny_model("llama-gqa", 1), chunk=5)


def run_cycles(target, network, shape, prompt_length, generator, vocabulary_W=None, cycles=4):
    """Cycles with a toy verdict that accepts a random way of each draft; features are random."""

    def normal(rows):
        return torch.randn(rows, HIDDEN, dtype=torch.float64, generator=generator)

    drafter = Falcon(network, target, shape, vocabulary_W)
    prompt_L = torch.randint(VOCAB, (prompt_length,), generator=generator)
    features_LD = normal(prompt_length)
    reference = Reference(network, target, prompt_L, features_LD)
    drafter.start(prompt_L, Scores.of(torch.zeros(1, VOCAB), features_LD))
    for _ in range(cycles):
        token = int(torch.randint(VOCAB, (), generator=generator))
        draft, features_TD = drafted_by(drafter, token, room=99)
        assert drafter.cache.length == len(reference.features)
        leaf = 0
        if len(reference.features) >= drafter.k:
            check_draft(reference, drafter, draft, features_TD, shape)
            leaf = int(torch.randint(len(draft), (), generator=generator))
        path_A = draft.ancestors_TT[leaf].nonzero().squeeze(-1)
        scores = Scores.of(torch.zeros(1, VOCAB), normal(len(draft)))
        accepted = tuple(draft.tokens_T[path_A[1:]].tolist())
        reference.keep((token, *accepted), scores.features_TD[path_A])
        drafter.observe(Verdict(tuple(path_A.tolist()), accepted, 0, (0,) * len(draft)), scores)


@pytest.mark.parametrize(("k", "mixer", "ours"), FORMS)
def test_cycles_predict_what_the_whole_sequence_network_predicts(target, tiny_network, random_paths, k, mixer, ours):
    form = {} if ours else {"normalise": False, "start": "own", "chained": False}
    network = tiny_network(target.decoder, k, k=k, mixer=mixer, **form)
    generator = torch.Generator().manual_seed(k)
    for prompt_length in (1, 11):
        shape = TreeShape.from_paths(random_paths(12, generator))
        run_cycles(target, network, shape, prompt_length, generator)


@pytest.mark.parametrize("attention", ["sdpa", "flash"])
@pytest.mark.parametrize("family", ["llama-wide-head", "mistral-window", "qwen2-window", "qwen3"])
def test_every_family_and_backend_drafts_alike(tiny_model, tiny_network, random_paths, family, attention):
    target = TargetModel(tiny_model(family, 1), attention, chunk=5)
    generator = torch.Generator().manual_seed(0)
    shape = TreeShape.from_paths(random_paths(12, generator))
    run_cycles(target, tiny_network(target.decoder, k=2), shape, 11, generator, cycles=3)


def test_a_draft_vocabulary_drafts_like_the_network(target, tiny_network, random_paths):
    generator = torch.Generator().manual_seed(0)
    shape = TreeShape.from_paths(random_paths(12, generator))
    run_cycles(target, tiny_network(target.decoder, k=2), shape, 6, generator, vocabulary_W=torch.arange(1, VOCAB, 5))


@pytest.mark.parametrize("kind", [Falcon, DynamicFalcon])
def test_what_is_drafted_is_of_the_draft_vocabulary_or_of_the_text(target, tiny_network, kind):
    vocabulary, prompt = [1, 6, 11, 16], [2, 3, 4, 6]
    drafter = kind(tiny_network(target.decoder, k=2), target, WIDE, torch.tensor(vocabulary))
    text, drafted = list(prompt), set()
    drafter.start(torch.tensor(prompt), target.prefill(torch.tensor(prompt)))
    for token in (7, 8, 9, 10):
        draft = drafter.propose(token, 99)
        scores = target.score(draft)
        target.commit([0])
        drafter.observe(Verdict((0,), (), 0, (0,) * len(draft)), scores)
        text.append(token)
        assert set(draft.tokens_T.tolist()) <= {*vocabulary, *text}
        drafted |= set(draft.tokens_T[1:].tolist())
    assert drafted - set(vocabulary)
    drafter.start(torch.tensor([1, 6]), target.prefill(torch.tensor([1, 6])))
    assert set(drafter.propose(1, 99).tokens_T.tolist()) <= set(vocabulary)


WIDE = TreeShape.from_paths([(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 0), (0, 1, 0, 0), (0, 1, 0, 0, 0)])


def started(target, network, shape, length=8, **more):
    """A drafter that has read a prompt of random features."""
    drafter = Falcon(network, target, shape, **more)
    generator = torch.Generator().manual_seed(0)
    features_LD = torch.randn(length, HIDDEN, dtype=torch.float64, generator=generator)
    drafter.start(torch.arange(length), Scores.of(torch.zeros(1, VOCAB), features_LD))
    return drafter


def test_room_cuts_the_tree_and_changes_nothing_of_the_rest(target, tiny_network):
    network = tiny_network(target.decoder, k=2)
    whole = started(target, network, WIDE).propose(7, 99)
    assert whole.parents == WIDE.parents
    for room in range(6):
        draft = started(target, network, WIDE).propose(7, room)
        nodes = sum(depth <= room for depth in WIDE.depths)
        assert draft.parents == WIDE.parents[:nodes]
        assert torch.equal(draft.tokens_T, whole.tokens_T[:nodes])
        assert torch.equal(draft.ancestors_TT, whole.ancestors_TT[:nodes, :nodes])
        assert draft.depth_T.tolist() == list(WIDE.depths[:nodes])


@pytest.mark.parametrize("mixer", ["time", "linear"])
def test_a_root_alone_is_read_with_what_comes_after_it(target, tiny_network, mixer):
    """Without room nothing is run; the next draft is the one it would have been."""
    network = tiny_network(target.decoder, k=2, mixer=mixer)
    rooms, drafts = ((0, 0, 9), (9, 9, 9)), []
    for rooms_of_cycles in rooms:
        drafter = started(target, network, WIDE)
        generator = torch.Generator().manual_seed(1)
        for cycle, room in enumerate(rooms_of_cycles):
            draft = drafter.propose(10 + cycle, room)
            features = torch.randn(1, HIDDEN, dtype=torch.float64, generator=generator).expand(len(draft), -1)
            drafter.observe(Verdict((0,), (), 0, (0,) * len(draft)), Scores.of(torch.zeros(1, VOCAB), features))
        drafts.append(draft)
    assert torch.equal(drafts[0].tokens_T, drafts[1].tokens_T)


def test_a_text_shorter_than_a_block_drafts_the_root_alone(target, tiny_network):
    network = tiny_network(target.decoder, k=3)
    assert len(started(target, network, WIDE, length=2).propose(7, 99)) == 1
    assert len(started(target, network, WIDE, length=3).propose(7, 99)) == len(WIDE)


def test_the_cache_grows_between_passes(target, tiny_network):
    network = tiny_network(target.decoder, k=2)
    expected = started(target, network, WIDE).propose(7, 99)
    drafter = Falcon(network, target, WIDE)
    drafter.cache = StaticCache(1, 2, 8, 99, torch.float64, torch.device("cpu"), capacity=9)
    features_LD = torch.randn(8, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drafter.start(torch.arange(8), Scores.of(torch.zeros(1, VOCAB), features_LD))
    assert torch.equal(drafter.propose(7, 99).tokens_T, expected.tokens_T)
    assert drafter.cache.capacity > 9


def test_a_network_of_another_dtype_than_its_targets_keeps_its_own(target, tiny_network):
    """As while it is trained: fp32 weights on a bf16 target."""
    network = tiny_network(target.decoder, k=2).float()
    draft = started(target, network, WIDE).propose(7, 99)
    exact = started(target, tiny_network(target.decoder, k=2), WIDE).propose(7, 99)
    assert torch.equal(draft.tokens_T, exact.tokens_T)


def test_trees_that_cannot_be_drafted_are_refused(target, tiny_network):
    network = tiny_network(target.decoder, k=2)
    with pytest.raises(FalconError, match="the tree asks for 4 candidates, the draft vocabulary has 3 tokens"):
        Falcon(network, target, TreeShape.from_paths([(3,)]), torch.arange(3))
    with pytest.raises(FalconError, match="the tree has 1025 nodes, 1024 is the most; keep fewer with nodes=N"):
        Falcon(network, target, TreeShape.chain(1024))


def test_options_keep_a_part_of_the_tree():
    assert FalconOptions().trim(WIDE) == WIDE
    assert FalconOptions(depth=2).trim(WIDE).height == 2
    assert FalconOptions(nodes=3).trim(WIDE).paths == ((0,), (1,), (0, 0))
    assert len(FalconOptions(depth=1, nodes=99).trim(WIDE)) == 3
    with pytest.raises(UsageError, match="a tree needs depth >= 0 and nodes >= 0"):
        FalconOptions(nodes=-1)
    with pytest.raises(UsageError, match="falcon: needs copy >= 0"):
        FalconOptions(copy=-1)
