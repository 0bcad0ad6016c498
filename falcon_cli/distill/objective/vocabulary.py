"""The draft vocabulary: the tokens that a drafter may draft.

The target's LM head is most of what a small target's drafter reads for each token drafted, and most of its rows are
never needed. When drafting, the draft vocabulary is open to the words of the text so far (`drafter/head.py`), and so
it is when learning, or the drafter would learn never to say them.

Shapes: V the target's vocabulary, W the draft vocabulary (opened: and the words of a batch), B batch, L positions, T
tokens (L + 1), N words beside the draft vocabulary.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.batches import Batch


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


@dataclass(frozen=True)
class ExtendedVocabulary:
    """The draft vocabulary open to the words of a batch."""

    head_WD: Tensor
    """The LM head's rows: of the draft vocabulary, then of the words."""
    number_V: Tensor
    """Token id → its row there, or −1."""
    since_BN: Tensor
    """Place of the text's token at which it first says a word, counted from 0; beyond its end if it never does."""


def opened(batch: Batch, head_VD: Tensor, head_WD: Tensor, number_V: Tensor) -> ExtendedVocabulary:
    """Take in the words of a batch.

    Args:
        batch: Texts.
        head_VD: The LM head.
        head_WD: Its rows of the draft vocabulary.
        number_V: See `number_of_V`.
    """
    said_BT = torch.cat([batch.begin_B[:, None], batch.tokens_BL], 1)
    words_N = said_BT.unique()
    words_N = words_N[number_V[words_N] < 0]
    fixed, count = len(head_WD), len(words_N)
    place_T = torch.arange(said_BT.shape[1], device=said_BT.device)
    if count:
        head_WD = torch.cat([head_WD, head_VD[words_N].to(head_WD)])
        number_V = number_V.clone()
        number_V[words_N] = fixed + torch.arange(count, device=words_N.device)
    column_BT = (number_V[said_BT] - fixed).clamp_min(-1) + 1  # 0 is for all that are no words
    since_BN = torch.full((len(said_BT), 1 + count), len(place_T), device=said_BT.device)
    since_BN.scatter_reduce_(1, column_BT, place_T.expand_as(said_BT), "amin")
    return ExtendedVocabulary(head_WD, number_V, since_BN[:, 1:])


def coverage(samples: Sequence[Sample], vocabulary_W: Tensor) -> tuple[float, float]:
    """Shares of held-out text's answer tokens: in the draft vocabulary, and in it or said before."""
    fixed = set(vocabulary_W.tolist())
    tokens = held = known = 0
    for sample in samples:
        said: set[int] = set()
        for token, answer in zip(sample.tokens, sample.answer, strict=True):
            if answer:
                tokens, held, known = tokens + 1, held + (token in fixed), known + (token in fixed or token in said)
            said.add(token)
    return held / max(1, tokens), known / max(1, tokens)
