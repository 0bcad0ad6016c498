"""Divides the samples into texts to train on and held-out texts."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CorpusRecipe


@dataclass(frozen=True)
class Corpus:
    """Texts to train on and held-out texts to evaluate on."""

    train: list[Sample]
    held_out: list[Sample]
    counts: Counter[str] = field(default_factory=Counter)
    """Number of dialogues left out or cut, by reason."""

    def summary(self) -> str:
        """A line for the terminal."""
        tokens = sum(sample.answer_tokens for sample in self.train)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common()) or "nothing left out"
        texts = f"{len(self.train):,} texts with {tokens:,} answer tokens"
        return f"corpus: {texts}, {len(self.held_out)} held out ({reasons})"


def split(samples: Sequence[Sample], recipe: CorpusRecipe, counts: Counter[str]) -> Corpus:
    """Hold out some dialogues, chosen by a hash of their names, so that the order of the corpus does not matter.

    Raises:
        FalconError: Nothing is left to train on.
    """
    names = sorted(
        {_dialogue_of(sample) for sample in samples}, key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    if len(names) <= recipe.held_out:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common()) or "its sources are empty"
        raise FalconError(
            f"the corpus has {len(names)} usable dialogues, of which corpus.held_out takes {recipe.held_out}: nothing "
            f"is left to train on ({reasons})"
        )
    held_out = set(names[: recipe.held_out])
    return Corpus(
        train=[sample for sample in samples if _dialogue_of(sample) not in held_out],
        held_out=[sample for sample in samples if _dialogue_of(sample) in held_out],
        counts=counts,
    )


def _dialogue_of(sample: Sample) -> str:
    """The dialogue's name, without the number of the turn."""
    return sample.id.rpartition("/")[0] or sample.id
