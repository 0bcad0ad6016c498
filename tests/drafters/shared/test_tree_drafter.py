"""What all drafters with trees have in common, on one that drafts fixed features."""

import pytest
import torch

from falcon_cli.core import Scores
from falcon_cli.drafters.shared.head import TorchHead
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter, TreeOptions, TreePlan
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.tree.shape import TreeShape

CPU = torch.device("cpu")
WIDE = TreeShape.from_paths([(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)])
IDS = torch.tensor([3, 5, 8, 13])


class Fixed(TreeDrafter):
    """Every node's children are drafted from one feature, which likes the last token of the draft vocabulary best."""

    def __init__(self, shape, vocabulary_W=IDS, deepest=None, choose=None, head=None):
        liked = torch.diag(torch.arange(1.0, 5.0))
        head_VD = liked if vocabulary_W is None else torch.zeros(20, 4).index_copy(0, vocabulary_W, liked)
        super().__init__(1, head or TorchHead(head_VD, vocabulary_W, torch.float32), CPU, choose)
        self.deepest, self.said, self.ready = deepest, [], True
        self.set_tree(shape)

    def start(self, prompt_L, scores):
        super().start(prompt_L, scores)
        self.said = []

    def with_tree(self, shape, choose=None):
        return Fixed(shape, deepest=self.deepest, choose=choose, head=self.head)

    def observe(self, verdict, scores):
        pass

    def note_root(self, token):
        super().note_root(token)
        self.said.append(token)

    def passes(self, plan, tokens_T):
        for step in plan.passes if self.ready else ():
            for slot in step.slots:
                features_ED = torch.ones(len(slot.output_E), 4)
                tokens_T[slot.begin : slot.end] = self.choose(features_ED, slot)
            yield torch.ones(len(tokens_T), 4)


def test_nodes_are_the_best_tokens_of_their_rank():
    drafter = Fixed(WIDE)
    draft = drafter.propose(1, 9)
    assert draft.tokens_T.tolist() == [1, *(int(IDS.flip(0)[path[-1]]) for path in WIDE.paths)]
    assert draft.parents == WIDE.parents
    assert drafter.said == [1]
    assert Fixed(WIDE, vocabulary_W=None).propose(1, 9).tokens_T.tolist() == [1, 3, 2, 3, 2, 3, 3]


def test_the_best_come_best_first_as_the_target_s_ids():
    assert Fixed(WIDE).best(torch.ones(2, 4), 3).tolist() == [[13, 8, 5]] * 2


def test_room_and_a_text_too_short_cut_the_draft():
    drafter = Fixed(WIDE)
    assert [len(drafter.propose(1, room)) for room in (0, 1, 2, 3, 4)] == [1, 3, 6, 7, 7]
    drafter.ready = False
    assert len(drafter.propose(1, 4)) == 1


def test_another_tree_shares_weights_and_begins_anew():
    drafter = Fixed(WIDE)
    other = drafter.with_tree(TreeShape.chain(2), lambda features, slot: torch.full((slot.end - slot.begin,), 7))
    assert other.head is drafter.head
    assert other.propose(1, 9).tokens_T.tolist() == [1, 7, 7]
    assert drafter.shape == WIDE
    assert len(drafter.propose(1, 9)) == 7


@pytest.mark.parametrize(
    ("shape", "deepest", "message"),
    [
        (TreeShape.from_paths([(rank,) for rank in range(5)]), None, "5 candidates, the draft vocabulary has 4"),
        (WIDE, 2, "the tree is 3 deep, this drafter drafts 2: keep less with depth=N"),
        (TreeShape.chain(1024), None, "the tree has 1025 nodes, 1024 is the most; keep fewer with nodes=N"),
    ],
)  # fmt: skip
def test_a_tree_that_does_not_fit_is_refused(shape, deepest, message):
    with pytest.raises(FalconError, match=message):
        Fixed(shape, deepest=deepest)


def test_passes_are_as_many_as_wanted_or_possible():
    assert Fixed(WIDE).most_passes(6) == 6
    assert Fixed(WIDE, deepest=4).most_passes(6) == 4


def test_a_plan_is_made_once_for_each_depth():
    drafter = Fixed(WIDE)
    assert drafter.plan(2) is drafter.plan(2)
    assert isinstance(drafter.plan(0), TreePlan)
    assert drafter.plan(0).passes == ()


def test_options_cut_and_are_checked():
    assert TreeOptions(depth=1).trim(WIDE).paths == ((0,), (1,))
    assert TreeOptions(nodes=3).trim(WIDE).paths == WIDE.paths[:3]
    with pytest.raises(UsageError, match="a tree needs depth >= 0 and nodes >= 0"):
        TreeOptions(depth=-1)


def test_scores_are_not_needed_to_begin():
    drafter = Fixed(WIDE)
    drafter.propose(1, 1)
    drafter.start(torch.tensor([1]), Scores.of(torch.zeros(1, 4), torch.zeros(1, 4)))
    assert drafter.said == []


def test_a_part_of_the_tree_may_be_kept():
    """The likeliest nodes, by a fixed model: (0,), (0, 0), (0, 0, 0), (1,) and so on."""
    drafter = Fixed(WIDE)
    drafter.keep(2)
    draft = drafter.propose(1, 9)
    assert draft.parents == (0, 0, 1)
    assert drafter.propose(1, 1).parents == (0, 0)
    drafter.keep(99)
    assert drafter.propose(1, 9).parents == WIDE.parents
    assert drafter.part(1) == TreeShape.chain(1)
    assert drafter.part(2) is drafter.part(2)
    assert drafter.expected(0) == 0
    assert drafter.expected(1) < drafter.expected(2) < drafter.expected(6)
    drafter.set_tree(TreeShape.chain(4))
    assert drafter.propose(1, 9).parents == (0, 0, 1, 2, 3)


def test_what_was_accepted_of_a_part_tells_of_the_smaller_ones():
    drafter = Fixed(WIDE)
    drafter.keep(4)
    kept = drafter.part(4)
    deepest = kept.paths.index((0, 0, 0)) + 1
    path = (0, kept.paths.index((0,)) + 1, kept.paths.index((0, 0)) + 1, deepest)
    assert drafter.accepted_of(path, [1, 2, 3, 4]) == {
        size: len([node for node in path[1:] if kept.paths[node - 1] in drafter.part(size).members])
        for size in (1, 2, 3, 4)
    }
    assert drafter.accepted_of((0,), [1, 4]) == {1: 0, 4: 0}
