"""How a method is written: `NAME`, or `NAME:option=value,option=value`, for example `lookahead:window=7,ngram=5`.

That text is also the method's name in tables and files, unless ` as LABEL` behind it gives another.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from falcon_cli.core import Drafter
from falcon_cli.drafters.saved.checkpoint import read_config
from falcon_cli.drafters.shared.tree_drafter import TreeOptions
from falcon_cli.errors import UsageError
from falcon_cli.methods.adaptive import AdaptiveOptions
from falcon_cli.methods.build import folder_for
from falcon_cli.methods.context import DraftingContext, DraftSources
from falcon_cli.methods.table import METHODS, Method
from falcon_cli.spelling import did_you_mean
from falcon_cli.target.reference.ask import PromptOf


@dataclass(frozen=True)
class MethodChoice:
    """A method with its settings, as the user chose it."""

    name: str
    """As written, or its label: the name in tables and files."""
    key: str
    """Its name in `METHODS`."""
    options: Any

    @property
    def method(self) -> Method:
        """Its line of the table."""
        return METHODS[self.key]

    def check(self, sources: DraftSources) -> None:
        """Refuse a method that lacks what it needs, before anything is loaded.

        Raises:
            UsageError: It needs a draft model, or a drafter.
            FalconError: The drafter's folder holds none.
        """
        if self.method.needs_draft_model and sources.draft_model is None:
            raise UsageError(f"{self.name} needs --draft-model: any causal LM of the target's vocabulary")
        if isinstance(self.options, TreeOptions):
            folder_for(self.key, self.options, sources.drafter, sources.target.model)
        if isinstance(self.options, AdaptiveOptions) and (folder := self.options.drafter or sources.drafter):
            read_config(Path(folder).expanduser())

    def build(self, context: DraftingContext) -> Drafter:
        """The drafter.

        Raises:
            FalconError: The draft model's vocabulary is not the target's, or the drafter or its tree does not fit.
        """
        return self.method.build(context, self.key, self.options)


def load_context(
    sources: DraftSources, choices: Iterable[MethodChoice], prompt_of: PromptOf | None = None
) -> DraftingContext:
    """What these methods draft from, loaded; `prompt_of` is what the target is asked by itself, as in `load_target`.

    Raises:
        FalconError: A model cannot be loaded.
    """
    return DraftingContext.load(sources, any(choice.method.needs_draft_model for choice in choices), prompt_of)


def choose(text: str) -> MethodChoice:
    """Read `NAME` or `NAME:option=value,...`; with ` as LABEL` behind it, LABEL is its name in tables and files.

    Raises:
        UsageError: Unknown method or option, a value of the wrong kind, an empty label, or one for `ar`.
    """
    before, labelled, label = f"{text} ".rpartition(" as ")
    written, label = (before.strip(), label.strip()) if labelled else (text, text)
    if labelled and not label:
        raise UsageError(f"{written} as … what? Write {written} as LABEL")
    key, _, settings = written.partition(":")
    if key not in METHODS:
        raise UsageError(f"unknown method {key}{did_you_mean(key, METHODS)}: choose from {', '.join(METHODS)}")
    if labelled and key == "ar":
        raise UsageError(f"ar is the baseline of every table and keeps its name: leave out as {label}")
    return MethodChoice(label, key, _options(key, METHODS[key].options, settings))


def _options(key: str, options: type, settings: str) -> Any:
    types = {field.name: field.type for field in fields(options)}
    values = {}
    for setting in filter(None, settings.split(",")):
        name, _, value = setting.partition("=")
        if name not in types:
            known = f"it knows {', '.join(types)}" if types else "it has none"
            raise UsageError(f"method {key} has no option {name}{did_you_mean(name, types)}: {known}")
        values[name] = _parse(f"{key}:{name}", types[name], value)
    return options(**values)


_EXPECTED = {bool: "true or false", int: "a whole number", int | None: "a whole number or auto", float: "a number"}


def _parse(option: str, expected: Any, value: str) -> Any:
    if expected == str | None:
        return value or None
    try:
        if expected is bool:
            return {"true": True, "false": False}[value.lower()]
        if expected == int | None:
            return None if value == "auto" else int(value)
        return expected(value)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{option}={value}: not {_EXPECTED[expected]}") from error
