"""Whether two tokenizers mean the same by a token id.

Ordinary tokens are those of a tokenizer's own model; added ones, such as [PAD] or a chat template's marks, are put
beside them by whoever tunes a model. Two vocabularies are alike if their ordinary tokens are the same.
"""

import hashlib
import json
from typing import Any

_MOST_TRAILING = 16  # added tokens at the end of a vocabulary without which an old hash is tried


def ordinary(tokenizer: Any) -> dict[str, int]:
    """The ordinary tokens with their ids."""
    added = tokenizer.get_added_vocab()
    return {word: number for word, number in tokenizer.get_vocab().items() if word not in added}


def foreign_ids(ours: Any, theirs: Any, rows: int, their_rows: int) -> frozenset[int]:
    """The ids below `rows` that are another token, or none, to the other model.

    Args:
        ours: The tokenizer whose ids they are.
        theirs: The other model's.
        rows: Ids that the model can read or say.
        their_rows: Ids that the other model can read.
    """
    mine, other = ({number: word for word, number in each.get_vocab().items()} for each in (ours, theirs))
    return frozenset(number for number in range(rows) if number >= their_rows or mine.get(number) != other.get(number))


def vocab_hash(words: dict[str, int]) -> str:
    """Fingerprint of what each token id means."""
    return hashlib.sha256(json.dumps(sorted(words.items())).encode()).hexdigest()


def is_alike(tokenizer: Any, whole_hash: object, ordinary_hash: object = None) -> bool:
    """Whether hashes that were kept are those of a vocabulary like this tokenizer's.

    Args:
        tokenizer: The tokenizer at hand.
        whole_hash: Of all tokens.
        ordinary_hash: Of the ordinary ones; None in files that are older than this hash. Then the vocabulary at hand
            may have added tokens that the other had not, all of them or the last few.
    """
    whole, own = tokenizer.get_vocab(), ordinary(tokenizer)
    if vocab_hash(whole) == whole_hash or vocab_hash(own) in (ordinary_hash, whole_hash):
        return True
    if ordinary_hash is not None:
        return False
    left = dict(whole)
    for word in sorted(whole.keys() - own.keys(), key=whole.__getitem__, reverse=True)[:_MOST_TRAILING]:
        if left[word] != max(left.values()):
            return False
        del left[word]
        if vocab_hash(left) == whole_hash:
            return True
    return False
