"""One question, answered plainly and by drafting, and read with full precision's answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from falcon_cli.bench.figures.certificate import TokenIds, first_difference
from falcon_cli.core import Drafter
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.target.load import LoadedTarget


@dataclass(frozen=True)
class Reading:
    """One question, read with one kind of weights."""

    prompt: TokenIds
    own: TokenIds
    """The free-running answer of these weights."""
    prompt_nats: float
    answer_nats: float
    """Minus the log-likelihoods of the prompt (but its first token) and of the full-precision answer."""
    agreed: int
    """Tokens of the full-precision answer that are the first choice of these weights too."""
    text: str = ""
    """The free-running answer without special tokens."""
    cut: bool = False
    """Whether it ended at the limit of new tokens."""
    parted: dict[str, int | None] = field(default_factory=dict)
    """Method → the first token in which its answer differs from `own`; None where the ids are identical."""


@torch.inference_mode()
def read(
    target: LoadedTarget,
    prompt: TokenIds,
    limit: int,
    answer: TokenIds | None = None,
    drafters: Mapping[str, Drafter] | None = None,
) -> Reading:
    """Answer a prompt, and read it with the full-precision answer, teacher-forced.

    Args:
        target: The model under one kind of weights.
        prompt: Token ids, two at least.
        limit: Most new tokens.
        answer: Full precision's; None where this is full precision.
        drafters: Method → its drafter: it answers too, to be compared with plain decoding.
    """

    def answered(drafter: Drafter) -> TokenIds:
        return complete(target.model, drafter, prompt, Stop(target.stop_ids, limit)).ids

    own = answered(Autoregressive(target.model.device))
    parted = {name: first_difference(own, answered(drafter)) for name, drafter in (drafters or {}).items()}
    ids_L = torch.tensor(prompt + (own if answer is None else answer))
    logits_LV = target.model.logits(target.model.prefill(ids_L).features_TD)[:-1].float()
    nats_L = torch.nn.functional.cross_entropy(logits_LV, ids_L[1:], reduction="none").double()
    agrees_L = logits_LV.argmax(-1) == ids_L[1:]
    begin = len(prompt) - 1
    return Reading(
        prompt,
        own,
        float(nats_L[:begin].sum()),
        float(nats_L[begin:].sum()),
        int(agrees_L[begin:].sum()),
        "" if target.tokenizer is None else target.tokenizer.decode(own, skip_special_tokens=True),
        own[-1] not in target.stop_ids,
        parted,
    )
