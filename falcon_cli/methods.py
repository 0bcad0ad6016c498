"""The one table of methods: a name becomes a drafter.

A method is written `NAME` or `NAME:option=value,option=value`, for example `lookahead:window=7,ngram=5`; that text is
also the method's name in tables and files. A new method is one file, and one line here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from falcon_cli.baselines.autoregressive import Autoregressive
from falcon_cli.baselines.lookahead import Lookahead, LookaheadOptions
from falcon_cli.baselines.pld import PldOptions, PromptLookup
from falcon_cli.baselines.sps import SpeculativeSampling, SpsOptions
from falcon_cli.core import Drafter
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.spelling import did_you_mean
from falcon_cli.target.load import LoadedTarget, load_target


@dataclass(frozen=True)
class NoOptions:
    """A method without settings."""


@dataclass(frozen=True)
class Kit:
    """What a drafter may be built from."""

    target: LoadedTarget
    draft_model: LoadedTarget | None = None

    @classmethod
    def load(cls, target: TargetRecipe, draft_model: str | None, choices: Iterable["Choice"]) -> "Kit":
        """Load the target, and a draft model on the same device and in the same dtype where a method needs one.

        Raises:
            FalconError: Either cannot be loaded.
        """
        needed = any(choice.method.needs_draft_model for choice in choices)
        drafting = None
        if draft_model is not None and needed:
            drafting = load_target(replace(target, model=draft_model, revision=None))
        return cls(load_target(target), drafting)


@dataclass(frozen=True)
class Method:
    """One line of the table."""

    summary: str
    options: type
    build: Callable[[Kit, Any], Drafter]
    needs_draft_model: bool = False


@dataclass(frozen=True)
class Choice:
    """A method with its settings, as the user chose it."""

    name: str
    """As written: the name in tables and files."""
    method: Method
    options: Any

    def check(self, draft_model: str | None) -> None:
        """Refuse a method that lacks what it needs, before anything is loaded.

        Raises:
            UsageError: It needs a draft model.
        """
        if self.method.needs_draft_model and draft_model is None:
            raise UsageError(f"{self.name} needs --draft-model: any causal LM of the target's vocabulary")

    def build(self, kit: Kit) -> Drafter:
        """The drafter.

        Raises:
            FalconError: The draft model's vocabulary is not the target's.
        """
        return self.method.build(kit, self.options)


def _sps(kit: Kit, options: SpsOptions) -> Drafter:
    assert kit.draft_model is not None, "Choice.check comes first"
    check_same_vocabulary(kit.target, kit.draft_model)
    return SpeculativeSampling(kit.draft_model.model, kit.target.model.vocab_size, options)


METHODS: dict[str, Method] = {
    "ar": Method("plain autoregression", NoOptions, lambda kit, _: Autoregressive(kit.target.model.device)),
    "pld": Method("prompt lookup", PldOptions, lambda kit, options: PromptLookup(kit.target.model.device, options)),
    "lookahead": Method(
        "lookahead decoding", LookaheadOptions, lambda kit, options: Lookahead(kit.target.model.device, options)
    ),
    "sps": Method("speculative sampling with a draft model", SpsOptions, _sps, needs_draft_model=True),
}


def choose(text: str) -> Choice:
    """Read `NAME` or `NAME:option=value,...`.

    Raises:
        UsageError: Unknown method or option, or a value of the wrong kind.
    """
    name, _, settings = text.partition(":")
    if name not in METHODS:
        raise UsageError(f"unknown method {name}{did_you_mean(name, METHODS)}: choose from {', '.join(METHODS)}")
    method = METHODS[name]
    kinds = {field.name: field.type for field in fields(method.options)}
    values = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        if key not in kinds:
            known = f"it knows {', '.join(kinds)}" if kinds else "it has none"
            raise UsageError(f"method {name} has no option {key}{did_you_mean(key, kinds)}: {known}")
        values[key] = _parse(f"{name}:{key}", kinds[key], value)
    return Choice(text, method, method.options(**values))


def check_same_vocabulary(target: LoadedTarget, draft: LoadedTarget) -> None:
    """Both models must mean the same by a token id.

    Raises:
        FalconError: They do not.
    """
    mine, theirs = target.tokenizer.get_vocab(), draft.tokenizer.get_vocab()
    if mine != theirs:
        differing = len(set(mine.items()) ^ set(theirs.items()))
        raise FalconError(
            f"draft model {draft.name} has another vocabulary than {target.name} ({len(theirs)} against {len(mine)} "
            f"tokens, {differing} entries differ); a draft model must share the target's tokenizer"
        )
    if draft.model.vocab_size < len(mine):
        raise FalconError(
            f"draft model {draft.name} scores {draft.model.vocab_size} tokens, the vocabulary has {len(mine)}"
        )


_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def _parse(option: str, kind: Any, value: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        return kind(value)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{option}={value}: not {_KINDS[kind]}") from error
