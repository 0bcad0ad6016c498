"""Divides the samples into texts to train on and held-out texts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.corpus.tally import Tally
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CorpusRecipe


@dataclass(frozen=True)
class Corpus:
    """Texts to train on and held-out texts to evaluate on."""

    train: list[Sample]
    held_out: list[Sample]
    tally: Tally = field(default_factory=Tally)

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        tokens = sum(sample.answer_tokens for sample in self.train)
        texts = f"{len(self.train):,} texts with {tokens:,} answer tokens, {len(self.held_out)} held out"
        first, *others = [*self.tally.lines(), texts]
        return [f"corpus: {first}", *(f"        {line}" for line in others)]


def split(samples: Sequence[Sample], recipe: CorpusRecipe, tally: Tally) -> Corpus:
    """Hold out some dialogues, chosen by a hash of their names, so that the order of the corpus does not matter.

    Raises:
        FalconError: Nothing is left to train on.
    """
    names = sorted(
        {_dialogue_of(sample) for sample in samples}, key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    if len(names) <= recipe.held_out:
        reasons = "; ".join(tally.lines()) if tally.read else "its sources are empty"
        raise FalconError(
            f"the corpus has {len(names)} usable dialogues, of which corpus.held_out takes {recipe.held_out}: nothing "
            f"is left to train on ({reasons})"
        )
    held_out = set(names[: recipe.held_out])
    return Corpus(
        train=[sample for sample in samples if _dialogue_of(sample) not in held_out],
        held_out=[sample for sample in samples if _dialogue_of(sample) in held_out],
        tally=tally,
    )


def _dialogue_of(sample: Sample) -> str:
    """The dialogue's name, without the number of the turn."""
    return sample.id.rpartition("/")[0] or sample.id
