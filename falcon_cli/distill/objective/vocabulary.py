"""The draft vocabulary: the tokens that a drafter may draft.

The target's LM head is most of what a small target's drafter reads for each drafted token, and most of its rows are
never needed. When drafting, the draft vocabulary is extended by the tokens of the text so far, the extra tokens. It is
extended in training as well; otherwise the drafter would learn never to draft them.

Shapes: V the target's vocabulary, W the draft vocabulary (extended: with the extra tokens of a batch), B batch, L
tokens of a text, D hidden size, Y extra tokens.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.batches import Batch


def choose_vocabulary(samples: Iterable[Sample], size: int, specials: Iterable[int]) -> Tensor:
    """The most frequent answer tokens and all special tokens.

    Ties go to the smaller id. If the answers have too few distinct tokens, the smallest ids fill up the vocabulary.

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
    # size + len(chosen) ids hold at least `size` that are not chosen.
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
    """The draft vocabulary with the extra tokens of a batch."""

    head_WD: Tensor
    """The LM head's rows: of the draft vocabulary, then of the extra tokens."""
    bias_W: Tensor | None
    """Their biases, if the LM head has any."""
    number_V: Tensor
    """Token id → its row there, or −1."""
    first_BY: Tensor
    """Place at which each text first contains an extra token, from 0; beyond the text's end where it never does."""


def extend(
    batch: Batch,
    head_VD: Tensor,
    head_WD: Tensor,
    number_V: Tensor,
    bias_V: Tensor | None = None,
    bias_W: Tensor | None = None,
) -> ExtendedVocabulary:
    """Add the tokens of a batch that the draft vocabulary lacks.

    Args:
        batch: Texts.
        head_VD: The LM head.
        head_WD: Its rows of the draft vocabulary.
        number_V: See `number_of_V`.
        bias_V: The LM head's biases.
        bias_W: Those of the draft vocabulary.
    """
    # Inputs begin with a text's second token, but its first may be drafted as well.
    text_BL = torch.cat([batch.begin_B[:, None], batch.tokens_BL], 1)
    extra_Y = text_BL.unique()
    extra_Y = extra_Y[number_V[extra_Y] < 0]
    fixed, count = len(head_WD), len(extra_Y)
    place_L = torch.arange(text_BL.shape[1], device=text_BL.device)
    if count:
        head_WD = torch.cat([head_WD, head_VD[extra_Y].to(head_WD)])
        if bias_V is not None and bias_W is not None:
            bias_W = torch.cat([bias_W, bias_V[extra_Y].to(bias_W)])
        number_V = number_V.clone()
        number_V[extra_Y] = fixed + torch.arange(count, device=extra_Y.device)
    # first[b, x] = min{i : text[b, i] = x}: a scatter of places by minimum. Tokens that are not extra go to column 0,
    # which is dropped. A column that nothing reaches keeps the text's length, which is beyond every position.
    column_BL = (number_V[text_BL] - fixed).clamp_min(-1) + 1
    first_BY = torch.full((len(text_BL), 1 + count), len(place_L), device=text_BL.device)
    first_BY.scatter_reduce_(1, column_BL, place_L.expand_as(text_BL), "amin")
    return ExtendedVocabulary(head_WD, bias_W, number_V, first_BY[:, 1:])


def coverage(samples: Sequence[Sample], vocabulary_W: Tensor) -> tuple[float, float]:
    """Shares of held-out answer tokens: in the draft vocabulary, and in it or earlier in the text."""
    fixed = set(vocabulary_W.tolist())
    tokens = in_fixed = in_extended = 0
    for sample in samples:
        before: set[int] = set()
        for token, answer in zip(sample.tokens, sample.answer, strict=True):
            if answer:
                tokens += 1
                in_fixed += token in fixed
                in_extended += token in fixed or token in before
            before.add(token)
    return in_fixed / max(1, tokens), in_extended / max(1, tokens)
