"""What a tuning comes to: of all predictions and runs, the fastest tree and the best copy policy next to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from falcon_cli.drafters.shared.copy_first import NGRAM
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy, StoredTree
from falcon_cli.tune_tree.measure.validation import PLAIN, MeasuredSpeed
from falcon_cli.tune_tree.search.candidates import TreeCandidate
from falcon_cli.tune_tree.search.search import DYNAMIC, TreeSearch


@dataclass(frozen=True)
class DrafterSource:
    """Where a drafter comes from."""

    name: str
    """The name of its weights."""
    folder: Path


@dataclass(frozen=True)
class TuningResult:
    """A search and its validation; everything else follows from these."""

    recipe: TuneTreeRecipe
    setting: Setting
    drafters: Mapping[int, DrafterSource]
    """k → its drafter."""
    search: TreeSearch
    measured: Mapping[str, MeasuredSpeed]
    """Contender → its runs; empty where the costs are another machine's, or no prompts were kept for validation."""
    folder: Path
    """The tuning's files."""
    argv: tuple[str, ...]

    @property
    def contenders(self) -> dict[str, TreeCandidate]:
        """The trees that ran, or would have, by name."""
        trees = {tree.name: tree for tree in self.search.finalists}
        if DYNAMIC in self.measured:
            trees[DYNAMIC] = self.search.finalists[0]
        return {**trees, **self.search.other_trees}

    def speed(self, name: str) -> float:
        """A contender's tokens a second: measured, or predicted where nothing ran."""
        if self.measured:
            return self.measured[name].tokens_per_second
        if name == PLAIN:
            return self.search.plain_tokens_per_second
        return (self.contenders.get(name) or self.search.copy_candidates[name]).tokens_per_second

    @property
    def winner_name(self) -> str | None:
        """The fastest tree's name; None where plain decoding is faster."""
        best = max(self.contenders, key=self.speed, default=PLAIN)
        return best if self.speed(best) > self.speed(PLAIN) else None

    @property
    def winner(self) -> TreeCandidate | None:
        """The fastest tree; None where plain decoding is faster."""
        return None if self.winner_name is None else self.contenders[self.winner_name]

    @property
    def k(self) -> int:
        """The k of the winner's drafter; of the first drafter where plain decoding is faster."""
        return next(iter(self.search.profiles)) if self.winner is None else self.winner.k

    @property
    def drafter(self) -> DrafterSource:
        """The drafter of that k."""
        return self.drafters[self.k]

    @property
    def copy_name(self) -> str | None:
        """The fastest copy policy with that drafter; None where the winner alone is faster."""
        alone = self.winner_name or PLAIN
        policies = (name for name, copies in self.search.copy_candidates.items() if copies.k == self.k)
        best = max(policies, key=self.speed, default=alone)
        return best if self.speed(best) > self.speed(alone) else None

    @property
    def copy_policy(self) -> CopyPolicy | None:
        """What `falcon:copy=auto` does from now on; None where no policy was tried."""
        if self.copy_name is not None:
            return self.search.copy_candidates[self.copy_name].policy
        shape = TreeShape(()) if self.winner is None else self.winner.shape
        return CopyPolicy(NGRAM, 0, shape) if self.search.copy_candidates else None

    @property
    def tree(self) -> StoredTree:
        """The winner as `--tree auto` reads it: without paths where plain decoding is faster."""
        shape = TreeShape(()) if self.winner is None else self.winner.shape
        return StoredTree(self.k, shape, self._made_by(), self.copy_policy)

    def _made_by(self) -> dict[str, Any]:
        made_by: dict[str, Any] = {
            "by": "falcon tune-tree",
            "date": date.today().isoformat(),
            "drafter": self.drafter.name,
            "target": self.setting.target,
            "device": self.search.costs.device,
            "weights": self.search.costs.weights,
        }
        winner = self.winner
        if winner is None:
            return made_by | {"plain": True}
        if self.winner_name == DYNAMIC:
            made_by |= {"dynamic": True}
        made_by |= {"predicted_tokens_per_second": round(winner.tokens_per_second, 2)}
        made_by |= {"predicted_tokens_per_cycle": round(winner.tokens_per_cycle, 3)}
        measured = self.measured.get(str(self.winner_name))
        if measured:
            made_by |= {"measured_tokens_per_second": round(measured.tokens_per_second, 2)}
            made_by |= {"measured_tokens_per_cycle": round(measured.tokens_per_cycle, 3)}
            made_by |= {"speedup_over_plain": round(measured.speedup, 3)}
        return made_by
