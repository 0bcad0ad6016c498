"""The one table of methods: a name becomes a drafter.

A method is written `NAME` or `NAME:option=value,option=value`, for example `lookahead:window=7,ngram=5`; that text is
also the method's name in tables and files. A new method is one file, and one line here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from falcon_cli.console import say
from falcon_cli.core import Drafter
from falcon_cli.drafters.falcon.dynamic import DynamicFalcon
from falcon_cli.drafters.falcon.propose import Falcon, FalconOptions
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.rivals.eagle import EagleOptions
from falcon_cli.drafters.rivals.lookahead import Lookahead, LookaheadOptions
from falcon_cli.drafters.rivals.medusa import MedusaOptions
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.drafters.rivals.sps import SpeculativeSampling, SpsOptions
from falcon_cli.drafters.saved.checkpoint import SavedDrafter, load_drafter, read_config, shipped
from falcon_cli.drafters.saved.choice import drafter_folder, drafter_of, tree_for
from falcon_cli.drafters.shared.copy_first import NGRAM, CopyFirst
from falcon_cli.drafters.shared.tree_drafter import TreeOptions
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.spelling import did_you_mean
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.tree.store import CopyPolicy, StoredTree


@dataclass(frozen=True)
class NoOptions:
    """A method without settings."""


class DraftSources(Protocol):
    """What a recipe offers to draft with."""

    @property
    def target(self) -> TargetRecipe:
        """Which target."""

    @property
    def draft_model(self) -> str | None:
        """A small model, for sps."""

    @property
    def drafter(self) -> str | None:
        """A drafter's folder, for the method that it is for."""

    @property
    def tree(self) -> str:
        """A tree's file, auto, chain or dynamic, for methods with trees."""


@dataclass(frozen=True)
class DraftingContext:
    """What a drafter may be built from."""

    target: LoadedTarget
    draft_model: LoadedTarget | None = None
    drafter: str | None = None
    """Folder of a distilled drafter."""
    tree: str = "auto"
    """Its tree: a file, auto, chain or dynamic."""

    @classmethod
    def load(cls, means: DraftSources, choices: Iterable["Choice"]) -> "DraftingContext":
        """Load the target, and a draft model on the same device and in the same dtype where a method needs one.

        Raises:
            FalconError: Either cannot be loaded.
        """
        needed = any(choice.method.needs_draft_model for choice in choices)
        drafting = None
        if means.draft_model is not None and needed:
            drafting = load_target(replace(means.target, model=means.draft_model, revision=None, adapter=None))
        return cls(load_target(means.target), drafting, means.drafter, means.tree)


@dataclass(frozen=True)
class Method:
    """One line of the table."""

    summary: str
    options: type
    build: Callable[[DraftingContext, Any], Drafter]
    needs_draft_model: bool = False


@dataclass(frozen=True)
class Choice:
    """A method with its settings, as the user chose it."""

    name: str
    """As written: the name in tables and files."""
    method: Method
    options: Any

    def check(self, means: DraftSources) -> None:
        """Refuse a method that lacks what it needs, before anything is loaded.

        Raises:
            UsageError: It needs a draft model, or a drafter.
            FalconError: The drafter's folder holds none.
        """
        if self.method.needs_draft_model and means.draft_model is None:
            raise UsageError(f"{self.name} needs --draft-model: any causal LM of the target's vocabulary")
        if isinstance(self.options, TreeOptions):
            _folder(self.options, means.drafter, means.target.model)

    def build(self, kit: DraftingContext) -> Drafter:
        """The drafter.

        Raises:
            FalconError: The draft model's vocabulary is not the target's, or the drafter or its tree do not fit.
        """
        return self.method.build(kit, self.options)


def _sps(kit: DraftingContext, options: SpsOptions) -> Drafter:
    assert kit.draft_model is not None, "Choice.check comes first"
    check_same_vocabulary(kit.target, kit.draft_model)
    return SpeculativeSampling(kit.draft_model.model, kit.target.model.vocab_size, options)


def _falcon(kit: DraftingContext, options: FalconOptions) -> Drafter:
    saved, tree = _saved(kit, options)
    best = tree.copying or CopyPolicy(NGRAM, PldOptions.length, tree.shape)
    if options.copy == 0 or (options.copy is None and best.tokens == 0):
        return _planted(kit, options, saved, tree)
    beside = tree.beside_copies
    drafter = Autoregressive(kit.target.model.device) if beside.plain else _planted(kit, options, saved, beside)
    ngram, tokens = options.copy or best.ngram, options.length or best.tokens or PldOptions.length
    return copying(drafter, replace(best, ngram=ngram, tokens=tokens), kit.target)


def copying(drafter: Drafter, how: CopyPolicy, target: LoadedTarget) -> Drafter:
    """Copies, and a drafter where there are none; copies alone where it drafts nothing."""
    lookup = PldOptions(max_ngram=how.ngram, min_ngram=how.ngram, length=how.tokens)
    copier = PromptLookup(target.model.device, lookup)
    return CopyFirst(drafter, copier) if isinstance(drafter, Falcon) else copier


def _with_tree(kit: DraftingContext, options: TreeOptions) -> Drafter:
    """A distilled drafter with its tree; plain decoding where that was found faster."""
    return _planted(kit, options, *_saved(kit, options))


def _saved(kit: DraftingContext, options: TreeOptions) -> tuple[SavedDrafter, StoredTree]:
    """A distilled drafter, and the tree for it here."""
    folder = _folder(options, kit.drafter, kit.target.name)
    saved = load_drafter(folder, kit.target)
    return saved, tree_for(options.tree or kit.tree, folder, saved, kit.target)


def _planted(kit: DraftingContext, options: TreeOptions, saved: SavedDrafter, tree: StoredTree) -> Drafter:
    if tree.plain:
        say("falcon tune-tree found plain decoding faster here than any tree: decoding plainly (another --tree drafts)")
        return Autoregressive(kit.target.model.device)
    drafter = drafter_of(saved, kit.target, options.trim(tree.shape))
    if not tree.dynamic:
        return drafter
    if not isinstance(drafter, Falcon):
        raise UsageError(f"{saved.method} has no dynamic trees: leave out tree=dynamic")
    return drafter.with_tree(drafter.shape, kind=DynamicFalcon)


def _folder(options: TreeOptions, given: str | None, target_name: str) -> Path:
    """The folder of the drafter for a method."""
    method = next(name for name, one in METHODS.items() if one.options is type(options))
    folder = drafter_folder(options.drafter or given, target_name, method, strict=options.drafter is not None)
    read_config(folder, method)
    return folder


def default_methods(means: DraftSources) -> tuple[str, ...]:
    """What `bench` compares unless told: those with drafters are among them where there are drafters."""
    drafting = _drafting(means)
    return ("ar", "pld", "lookahead", *drafting, *((_COPYING,) if "falcon" in drafting else ()))


def default_method(means: DraftSources) -> str:
    """What `generate` drafts with unless told: falcon and copies where there is a drafter, else prompt lookup.

    A drafter for another method decides for that one.
    """
    method = _method_of(means.drafter) if means.drafter else "falcon"
    if method != "falcon":
        return method
    return _COPYING if "falcon" in _drafting(means) else "pld"


def _drafting(means: DraftSources) -> tuple[str, ...]:
    """The methods that have a drafter, given or shipped."""
    given = _method_of(means.drafter) if means.drafter else None
    return tuple(name for name in ("medusa", "eagle", "falcon") if name == given or shipped(means.target.model, name))


def _method_of(folder: str) -> str:
    """The method that a drafter's folder is for; falcon where it cannot be read, which `Choice.check` will say."""
    try:
        return str(read_config(Path(folder).expanduser())["method"])
    except FalconError:
        return "falcon"


_COPYING = "falcon:copy=auto"

METHODS: dict[str, Method] = {
    "ar": Method("plain autoregression", NoOptions, lambda kit, _: Autoregressive(kit.target.model.device)),
    "pld": Method("prompt lookup", PldOptions, lambda kit, options: PromptLookup(kit.target.model.device, options)),
    "lookahead": Method(
        "lookahead decoding", LookaheadOptions, lambda kit, options: Lookahead(kit.target.model.device, options)
    ),
    "sps": Method("speculative sampling with a draft model", SpsOptions, _sps, needs_draft_model=True),
    "medusa": Method("Medusa's heads", MedusaOptions, _with_tree),
    "eagle": Method("EAGLE's autoregressive drafter", EagleOptions, _with_tree),
    "falcon": Method("Falcon's semi-autoregressive drafter", FalconOptions, _falcon),
}


def choose(text: str) -> Choice:
    """Read `NAME` or `NAME:option=value,...`; with ` as LABEL` behind it, LABEL is its name in tables and files.

    Raises:
        UsageError: Unknown method or option, a value of the wrong kind, an empty label, or one for `ar`.
    """
    before, labelled, label = f"{text} ".rpartition(" as ")
    written, label = (before.strip(), label.strip()) if labelled else (text, text)
    if labelled and not label:
        raise UsageError(f"{written} as … what? Write {written} as LABEL")
    name, _, settings = written.partition(":")
    if name not in METHODS:
        raise UsageError(f"unknown method {name}{did_you_mean(name, METHODS)}: choose from {', '.join(METHODS)}")
    if labelled and name == "ar":
        raise UsageError(f"ar is the baseline of every table and keeps its name: leave out as {label}")
    method = METHODS[name]
    kinds = {field.name: field.type for field in fields(method.options)}
    values = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        if key not in kinds:
            known = f"it knows {', '.join(kinds)}" if kinds else "it has none"
            raise UsageError(f"method {name} has no option {key}{did_you_mean(key, kinds)}: {known}")
        values[key] = _parse(f"{name}:{key}", kinds[key], value)
    return Choice(label, method, method.options(**values))


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


_KINDS = {bool: "true or false", int: "a whole number", int | None: "a whole number or auto", float: "a number"}


def _parse(option: str, kind: Any, value: str) -> Any:
    if kind == str | None:
        return value or None
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        if kind == int | None:
            return None if value == "auto" else int(value)
        return kind(value)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{option}={value}: not {_KINDS[kind]}") from error
