"""The one table of methods: a name and what builds its drafter. A new method is one file, and one line here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from falcon_cli.core import Drafter
from falcon_cli.drafters.rivals.lookahead import LookaheadOptions
from falcon_cli.drafters.rivals.pld import PldOptions
from falcon_cli.drafters.rivals.sps import SpsOptions
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.methods import build
from falcon_cli.methods.adaptive import AdaptiveOptions, adaptive
from falcon_cli.methods.context import DraftingContext


@dataclass(frozen=True)
class NoOptions:
    """A method without settings."""


@dataclass(frozen=True)
class Method:
    """One line of the table."""

    summary: str
    options: type
    build: Callable[[DraftingContext, str, Any], Drafter]
    """Context, the method's name, its options → drafter."""
    needs_draft_model: bool = False


METHODS: dict[str, Method] = {
    "ar": Method("plain autoregression", NoOptions, build.autoregressive),
    "pld": Method("prompt lookup", PldOptions, build.prompt_lookup),
    "lookahead": Method("lookahead decoding", LookaheadOptions, build.lookahead),
    "sps": Method("speculative sampling with a draft model", SpsOptions, build.speculative_sampling, True),
    "adaptive": Method("copies, trees or neither, whichever is worth most just now", AdaptiveOptions, adaptive),
    **{name: Method(trained.summary, trained.options, build.trained) for name, trained in TRAINED.items()},
}
