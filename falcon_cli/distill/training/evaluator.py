"""Evaluation on held-out text: accuracy by pass and slot, the best tree for these ranks, and the τ measured with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from falcon_cli.core import Drafter
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.extract import TextFeatures
from falcon_cli.distill.objective.accuracy import accuracy, best_paths, expected_accepted
from falcon_cli.distill.students.student import Student
from falcon_cli.target.load import LoadedTarget
from falcon_cli.tree.shape import TreeShape

_NODES = 32
_WIDTH = 32
_NEW_TOKENS = 64


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation."""

    line: dict[str, Any]
    tree: TreeShape


@dataclass(frozen=True)
class HeldOutEvaluator:
    """Evaluates a student on held-out text.

    Args:
        target: Decodes for the measured τ.
        student: The drafter in training.
        texts: Features of the held-out texts.
        samples: The same texts; the first few prompts are decoded.
        prompts: Number of prompts to decode.
    """

    target: LoadedTarget
    student: Student
    texts: Sequence[TextFeatures]
    samples: Sequence[Sample]
    prompts: int

    def evaluate(self) -> Evaluation:
        """Accuracy on all texts, the predicted τ of the best tree of 32 nodes, and its measured τ."""
        k, ranks = self.student.k, self.student.ranks(self.texts)
        width = min(_WIDTH, len(self.student.weights.head_WD))
        paths = best_paths(ranks, _NODES, width)
        tree = TreeShape.from_paths(paths) if paths else TreeShape.chain(k)  # texts too short for a draft
        line: dict[str, Any] = accuracy(ranks, k).line()
        line["drafts"] = len(ranks)
        line["tau_foreseen"] = round(expected_accepted(ranks, tree.paths), 4)
        line["tau"] = self._measured_tau(self.student.as_drafter(self.target, tree))
        return Evaluation(line, tree)

    def _measured_tau(self, drafter: Drafter) -> float | None:
        """Drafted tokens accepted per cycle over the first held-out prompts; None if no cycle was run."""
        cycles = []
        for sample in self.samples[: self.prompts]:
            prompt = list(sample.tokens[: sample.answer.index(True)])
            limit = min(_NEW_TOKENS, self.target.model.context_limit - len(prompt))
            completion = complete(self.target.model, drafter, prompt, Stop(self.target.stop_ids, limit))
            cycles += completion.cycles
        return round(sum(cycle.accepted for cycle in cycles) / len(cycles), 4) if cycles else None
