"""One dialogue as the target reads it: token ids, and which of them belong to answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A tokenised dialogue of L tokens.

    tokens   <user> hello </s> <assistant> hi there </s>
    answer     .      .    .       .        1   1    1      the end-of-turn token included
    """

    id: str
    tokens: tuple[int, ...]
    answer: tuple[bool, ...]

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def answer_tokens(self) -> int:
        """Number of answer tokens."""
        return sum(self.answer)
