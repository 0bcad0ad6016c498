"""The draft vocabulary: the tokens that a drafter may draft.

The target's LM head is most of what a small target's drafter reads for each token drafted, and most of its rows are
never needed. Shapes: V the target's vocabulary, W the draft vocabulary.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from falcon_cli.distill.sample import Sample


def choose_vocabulary(samples: Iterable[Sample], size: int, specials: Iterable[int]) -> Tensor:
    """Most frequent answer tokens, the special ones always among them.

    Ties go to the smaller id, and where the answers hold fewer different tokens the smallest ids fill up.

    Returns:
        [W] ascending token ids, `size` of them.
    """
    counts: Counter[int] = Counter()
    for sample in samples:
        counts.update(token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer)
    chosen = dict.fromkeys(sorted(specials)[:size])
    for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if len(chosen) >= size:
            break
        chosen[token] = None
    spare = (token for token in range(size + len(chosen)) if token not in chosen)
    while len(chosen) < size:
        chosen[next(spare)] = None
    return torch.tensor(sorted(chosen))


def number_of_V(vocabulary_W: Tensor | None, vocab_size: int) -> Tensor:
    """Each token's number in the draft vocabulary [V], −1 where it is not in it."""
    if vocabulary_W is None:
        return torch.arange(vocab_size)
    number = torch.full((vocab_size,), -1, dtype=torch.long)
    number[vocabulary_W] = torch.arange(len(vocabulary_W))
    return number


def coverage(samples: Sequence[Sample], vocabulary_W: Tensor) -> float:
    """Share of the answer tokens of held-out text that the draft vocabulary holds."""
    known = set(vocabulary_W.tolist())
    answers = [token for s in samples for token, answer in zip(s.tokens, s.answer, strict=True) if answer]
    return sum(token in known for token in answers) / max(1, len(answers))
