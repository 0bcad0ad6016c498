"""The target's features of a text: its hidden state at every token, and the most probable next tokens.

Texts of like length are read together: on exact kernels one behind the other, on torch's operators padded at the end,
where causal attention hides the padding. The LM head is applied only where the next token belongs to an answer.

Shapes: B batch, L positions of a text, D hidden size, Z tokens kept of the distribution, T rows of some logits.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.packed_matrix import top_k
from falcon_cli.target.batch import features_of, suits_batch
from falcon_cli.target.model import TargetModel

_FORWARD_TOKENS = 4096
"""Tokens of one forward, padding included."""
_HEAD_ROWS = 64
"""Rows of logits in memory at a time."""


@dataclass(frozen=True)
class TextFeatures:
    """A sample with the target's hidden states and distributions."""

    tokens_L: Tensor
    answer_L: Tensor
    """Boolean: the token belongs to an answer."""
    features_LD: Tensor
    top_ids_LZ: Tensor
    """Most probable tokens after each token, best first; zeros where no answer token follows."""
    top_logprobs_LZ: Tensor


def bytes_a_token(hidden: int, top: int) -> int:
    """Bytes of one token's features in half precision: token 4, answer 1, feature 2·D, distribution 6·C."""
    return 5 + 2 * hidden + 6 * top


def forwards(samples: Sequence[Sample]) -> int:
    """Number of forwards that `extract` needs for them."""
    lengths = sorted(map(len, samples))
    return sum(1 for _ in padded_batches(range(len(lengths)), lengths, _FORWARD_TOKENS))


def extract(
    target: TargetModel, samples: Sequence[Sample], top: int, dtype: torch.dtype
) -> Iterator[tuple[int, TextFeatures]]:
    """Read samples and yield (number, features), shortest text first.

    Args:
        target: Reads the texts; its cache is not touched.
        samples: Any number.
        top: C.
        dtype: Of features and log-probabilities.
    """
    order = sorted(range(len(samples)), key=lambda number: len(samples[number]))
    read = _together if suits_batch(target) else _padded
    free = torch.no_grad() if target.sharded else torch.inference_mode()  # FSDP keeps no inference tensors
    for batch in padded_batches(order, [len(sample) for sample in samples], _FORWARD_TOKENS):
        with free:
            texts = read(target, [torch.tensor(samples[number].tokens, device=target.device) for number in batch])
            for number, features_LD in zip(batch, texts, strict=True):
                yield number, _features(target, samples[number], features_LD, top, dtype)


def _together(target: TargetModel, texts: Sequence[Tensor]) -> Iterable[Tensor]:
    """Features of each text, on exact kernels."""
    return features_of(target, texts)


def _padded(target: TargetModel, texts: Sequence[Tensor]) -> Iterable[Tensor]:
    """Features of each text and of its padding, on torch's operators."""
    with target.plain_transformers():
        features_BLD: Tensor = target.forward.features(pad_sequence(list(texts), batch_first=True), use_cache=False)
    return features_BLD


def extract_all(target: TargetModel, samples: Sequence[Sample], top: int, dtype: torch.dtype) -> list[TextFeatures]:
    """The features of all samples, in their order and in memory; see `extract`."""
    features = dict(extract(target, samples, top, dtype))
    return [features[number] for number in range(len(samples))]


def padded_batches(order: Sequence[int], lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Cut numbers, sorted by ascending length, into batches of at most `limit` tokens with padding (at least one)."""
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * lengths[number] > limit:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _likeliest(target: TargetModel, features_TD: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The likeliest tokens behind each feature, best first, and their log-probabilities: [T, Z] each."""
    if suits_batch(target) and isinstance(target.head, NativeLinear):
        places_TZ, logits_TV = top_k(features_TD, target.head.matrix, top)
        return places_TZ, logits_TV.gather(1, places_TZ) - logits_TV.logsumexp(-1, keepdim=True)
    logits_TV = target.logits(features_TD).float()
    best = logits_TV.topk(top)
    return best.indices, best.values - logits_TV.logsumexp(-1, keepdim=True)


def _features(target: TargetModel, sample: Sample, features_LD: Tensor, top: int, dtype: torch.dtype) -> TextFeatures:
    length = len(sample)
    features_LD = features_LD[:length]
    answer_L = torch.tensor(sample.answer, dtype=torch.bool)
    before = answer_L.roll(-1)
    before[-1] = True  # the next token is unknown, but the target predicts one
    top = min(top, target.vocab_size)
    ids_LZ = torch.zeros(length, top, dtype=torch.int32)
    logprobs_LZ = torch.zeros(length, top, dtype=dtype)
    for rows in before.nonzero()[:, 0].split(_HEAD_ROWS):
        ids_TZ, logprobs_TZ = _likeliest(target, features_LD[rows.to(features_LD.device)], top)
        ids_LZ[rows], logprobs_LZ[rows] = ids_TZ.int().cpu(), logprobs_TZ.to(dtype).cpu()
    return TextFeatures(
        tokens_L=torch.tensor(sample.tokens, dtype=torch.int32),
        answer_L=answer_L,
        features_LD=features_LD.to(dtype).cpu().clone(),
        top_ids_LZ=ids_LZ,
        top_logprobs_LZ=logprobs_LZ,
    )
