"""Other people's engines on the same weights, in the same run: `transformers.generate`, plain and with prompt lookup.

Tokens are counted as ours are: what comes with the first piece (prefill's) is not decoding. A streamer tells when
tokens come, so a peer's record has one cycle a piece; what happens inside a piece is the peer's own affair.
"""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from falcon_cli.decode.stats import Completion, Cycle, Finish
from falcon_cli.errors import UsageError
from falcon_cli.spelling import did_you_mean
from falcon_cli.target.load import LoadedTarget

PEERS: dict[str, dict[str, Any]] = {
    "hf": {},
    "hf-pld": {"prompt_lookup_num_tokens": 7, "max_matching_ngram_size": 3},
}
"""Peer → what it adds to `generate`'s arguments; prompt lookup with the lengths of our own."""


@dataclass
class _Clock:
    """A streamer of transformers that notes when how many tokens came; the first call brings the prompt."""

    began: float = field(default_factory=perf_counter)
    pieces: list[tuple[int, float]] = field(default_factory=list)
    _prompt_seen: bool = False

    def put(self, value: Tensor) -> None:
        """New token ids."""
        if self._prompt_seen:
            self.pieces.append((value.numel(), perf_counter()))
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing more comes."""


def check_peer(name: str) -> None:
    """Refuse an unknown peer.

    Raises:
        UsageError: There is no such peer.
    """
    if name not in PEERS:
        raise UsageError(f"unknown peer {name}{did_you_mean(name, PEERS)}: choose from {', '.join(PEERS)}")


@torch.inference_mode()
def peer_complete(name: str, target: LoadedTarget, prompt: list[int], max_new_tokens: int) -> Completion:
    """Decode the answer to one prompt greedily with a peer."""
    ids = torch.tensor([prompt], device=target.model.device)
    with target.model.plain_transformers() as model:
        clock = _Clock()
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=sorted(target.stop_ids) or None,
            pad_token_id=min(target.stop_ids, default=0),
            streamer=clock,
            **PEERS[name],
        )
    new = output[0, len(prompt) :].tolist()
    return _record(clock, len(prompt), new, target.stop_ids)


def _record(clock: _Clock, prompt_tokens: int, new: list[int], stop_ids: frozenset[int]) -> Completion:
    (first, start), *rest = clock.pieces
    cycles, seen, before = [], first, start
    for tokens, when in rest:
        emitted = min(tokens, len(new) - seen)  # generate may stream past the stop token that it then cuts at
        if emitted > 0:
            cycles.append(Cycle(emitted, emitted, 0.0, when - before, when - before))
        seen, before = seen + emitted, when
    finish: Finish = "stop" if new and new[-1] in stop_ids else "length"
    return Completion(prompt_tokens, new, start - clock.began, cycles, finish)
