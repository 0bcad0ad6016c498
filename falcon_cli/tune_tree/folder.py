"""The folder of one tuning: everything measured, so that nothing is measured twice, and the report.

answers.jsonl           the target's greedy answers       tree.json      the winner
ranks-NAME.jsonl        each drafter's rank paths         tree.svg       the winner, drawn
costs.json              what a cycle costs here           ranks.png      acceptance by depth and rank
validation-KEY.jsonl    the contenders' runs              speed.png      tokens a second by size
results.json            the document of --json            report.md      all of it for people
recipe.yaml, provenance.json
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from falcon_cli.errors import UsageError
from falcon_cli.recipe.load import dump
from falcon_cli.recipe.run_folder import RunFolder
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.sources import append_line, disk_errors, home, whole_lines
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath, RankProbe
from falcon_cli.tune_tree.measure.texts import GreedyText


@dataclass(frozen=True)
class TuningFolder(RunFolder):
    """The folder of a tuning that was begun."""

    FREE: ClassVar[frozenset[str]] = frozenset({"out"})

    @classmethod
    def open(
        cls, recipe: TuneTreeRecipe, argv: Sequence[str], drafters: Sequence[str], setting: str, resume: bool = False
    ) -> "TuningFolder":
        """Begin a tuning, or continue the same one.

        Args:
            recipe: Its `out` names the folder; None takes one in the cache, the same for the same tuning.
            argv: The command.
            drafters: Names of the drafters' weights.
            setting: The target and what it runs on.
            resume: Continue the tuning in the folder that `out` names; the cache's folders always go on.

        Raises:
            UsageError: The folder holds another tuning, or one to continue, and `resume` is off.
            FalconError: It cannot be written.
        """
        plan = "\n".join([dump(replace(recipe, out=None)), *drafters, setting])
        key = hashlib.sha256(plan.encode()).hexdigest()[:16]
        folder = cls(Path(recipe.out).expanduser() if recipe.out else home() / "tuning" / key)
        folder.enter(recipe, argv, resume or recipe.out is None)
        kept = folder.path / "key"
        if kept.is_file() and kept.read_text() != key:  # the same recipe, but other drafters or another machine
            raise UsageError(f"{folder.path} holds another tuning: name another --out, or remove it")
        with disk_errors(folder.path):
            folder.put("key", key)
        return folder

    def begun(self) -> bool:
        """See `RunFolder`: a tuning that was killed before it was entered whole binds nobody."""
        return (self.path / "key").is_file()

    @property
    def answers(self) -> Path:
        """The log of the target's answers."""
        return self.path / "answers.jsonl"

    def validation(self, contenders: Mapping[str, TreeShape | CopyPolicy]) -> Path:
        """The log of the runs of these contenders."""
        plan = sorted((name, repr(contender)) for name, contender in contenders.items())
        return self.path / f"validation-{hashlib.sha256(repr(plan).encode()).hexdigest()[:8]}.jsonl"

    def ranked(
        self,
        drafter: str,
        probe: RankProbe,
        texts: Sequence[GreedyText],
        target: TargetModel,
        tick: Callable[[], None],
    ) -> tuple[RankedText, ...]:
        """A drafter's rank paths on every text; those in the folder are not computed again."""
        log = self.path / f"ranks-{drafter}.jsonl"
        known = {entry["text"]: entry for entry in map(json.loads, whole_lines(log))}
        ranked = []
        for text in texts:
            name = _name(text, probe)
            if name not in known:
                fresh = probe.probe(target, text.prompt.ids, text.answer)
                known[name] = {
                    "text": name,
                    "context": fresh.context,
                    "ranks": [path.ranks for path in fresh.paths],
                    "open": [place for place, path in enumerate(fresh.paths) if not path.complete],
                }
                with disk_errors(self.path):
                    append_line(log, json.dumps(known[name], separators=(",", ":")))
            entry, incomplete = known[name], set(known[name]["open"])
            paths = tuple(RankPath(tuple(ranks), place not in incomplete) for place, ranks in enumerate(entry["ranks"]))
            ranked.append(RankedText(entry["context"], paths))
            tick()
        return tuple(ranked)


def _name(text: GreedyText, probe: RankProbe) -> str:
    """The key of a text's ranks: what they depend on but for the drafter, which names the file."""
    words = (text.prompt.ids, text.answer, probe.depth, probe.width)
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16]
