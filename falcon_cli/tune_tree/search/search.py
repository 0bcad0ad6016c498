"""Everything that ranks and costs say before anything is run: which trees and copy policies are worth a run.

In come the drafters' profiles, the cost table, the calibration texts and what is used without this tuning. Out come
predictions. All of it is pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from falcon_cli.costs.table import CostTable
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.tree.store import CopyPolicy, StoredTree
from falcon_cli.tune_tree.measure.ranks import tokens_per_cycle
from falcon_cli.tune_tree.measure.texts import GreedyText
from falcon_cli.tune_tree.search.candidates import (
    DrafterProfile,
    TreeCandidate,
    candidates,
    distinct,
    finalists,
    predicted,
    priced,
)
from falcon_cli.tune_tree.search.copies import CopyCandidate, FallbackTree, copies_in, copy_candidates, predict

CURRENT = "tree so far"
"""The tree that `--tree auto` took before this tuning."""
BUILT_IN = "built-in tree"
"""The tree of a drafter that comes without one."""
COPIES_SO_FAR = "copies so far"
"""The copy policy that `falcon:copy=auto` took before this tuning."""
DYNAMIC = "dynamic"
"""The first finalist's budget, its nodes chosen in every cycle."""


@dataclass(frozen=True)
class Baselines:
    """What is used without this tuning, and runs next to its finalists."""

    current: StoredTree
    built_in: StoredTree
    copies: CopyPolicy | None
    """None where the drafter never copies: no policy is searched for."""


@dataclass(frozen=True)
class TreeSearch:
    """Trees and copy policies with their predicted speeds."""

    costs: CostTable
    context: float
    """Tokens before a draft, on average."""
    profiles: Mapping[int, DrafterProfile]
    """k → its drafter."""
    trees: tuple[TreeCandidate, ...]
    """The best tree of each k, size and number of passes."""
    finalists: tuple[TreeCandidate, ...]
    """The trees worth a run, fastest first."""
    other_trees: Mapping[str, TreeCandidate]
    """The baselines' trees, unless they are finalists."""
    copy_candidates: Mapping[str, CopyCandidate]
    """The copy policies worth a run, the baseline's among them."""

    @classmethod
    def of(
        cls,
        recipe: TuneTreeRecipe,
        texts: Sequence[GreedyText],
        profiles: Mapping[int, DrafterProfile],
        costs: CostTable,
        baselines: Baselines,
    ) -> "TreeSearch":
        """Search for every drafter.

        Args:
            recipe: How many nodes and finalists.
            texts: The calibration texts.
            profiles: k → the drafter's ranks on these texts.
            costs: What cycles cost; it must know every k.
            baselines: What is used without this tuning.
        """
        context = mean_context(texts)
        trees = [
            tree
            for profile in profiles.values()
            for tree in predicted(profile, candidates(profile, costs, context, recipe.nodes, profile.passes))
        ]
        best = finalists(trees, recipe.finalists)
        other_trees: dict[str, TreeCandidate] = {}
        for name, stored in ((BUILT_IN, baselines.built_in), (CURRENT, baselines.current)):
            taken = [tree.shape for tree in (*best, *other_trees.values()) if tree.k == stored.k]
            if stored.shape.paths and stored.shape not in taken:
                other_trees[name] = _given(stored, profiles[stored.k], costs, context)
        policies: dict[str, CopyCandidate] = {}
        if baselines.copies is not None:
            policies = _policies(recipe, texts, profiles, costs, context, trees)
            k = baselines.current.k
            current = _current_policy(k, baselines.copies, texts, profiles[k], costs, context)
            if current not in policies.values():
                policies[COPIES_SO_FAR] = current
        return cls(costs, context, profiles, tuple(trees), tuple(best), other_trees, policies)

    @property
    def plain_tokens_per_second(self) -> float:
        """The predicted speed of plain decoding."""
        return 1000 / self.costs.plain_ms(self.context)

    @property
    def contenders(self) -> dict[str, TreeCandidate]:
        """The trees worth a run, by name."""
        return {**{tree.name: tree for tree in self.finalists}, **self.other_trees}


def mean_context(texts: Sequence[GreedyText]) -> float:
    """Tokens before a draft, on average: a prompt and half of its answer."""
    return sum(len(text.prompt.ids) + len(text.answer) / 2 for text in texts) / len(texts)


def _given(stored: StoredTree, profile: DrafterProfile, costs: CostTable, context: float) -> TreeCandidate:
    """A tree that was not made of these texts: the loop over them is a fair prediction."""
    path_probabilities = profile.probabilities(stored.shape.height)
    probabilities = (1.0, *(path_probabilities.probability(path) for path in stored.shape.paths))
    candidate = priced(stored.shape, probabilities, profile, costs, context)
    return replace(candidate, tokens_per_cycle=tokens_per_cycle(profile.texts, stored.shape))


def _policies(
    recipe: TuneTreeRecipe,
    texts: Sequence[GreedyText],
    profiles: Mapping[int, DrafterProfile],
    costs: CostTable,
    context: float,
    trees: Sequence[TreeCandidate],
) -> dict[str, CopyCandidate]:
    """The fastest policies that are not alike, by name."""
    policies = [
        candidate
        for profile in profiles.values()
        for candidate in copy_candidates(profile, trees, texts, costs, context)
    ]
    best = distinct(policies, recipe.finalists, lambda candidate: candidate.policy.ngram)
    return {candidate.name: candidate for candidate in best}


def _current_policy(
    k: int,
    policy: CopyPolicy,
    texts: Sequence[GreedyText],
    profile: DrafterProfile,
    costs: CostTable,
    context: float,
) -> CopyCandidate:
    """The predicted speed of the policy in use; where that is not to copy, of copying one token."""
    fallback = FallbackTree.of(profile, policy.shape, costs, context)
    copies = [copies_in(text, policy.ngram) for text in texts]
    return predict(fallback, copies, policy.ngram, max(1, policy.tokens), costs, context)
