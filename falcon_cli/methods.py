"""The one table of methods: a name becomes a drafter.

A method is written `NAME` or `NAME:option=value,option=value`, for example `lookahead:window=7,ngram=5`; that text is
also the method's name in tables and files. A new method is one file, and one line here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from falcon_cli.baselines.autoregressive import Autoregressive
from falcon_cli.baselines.lookahead import Lookahead, LookaheadOptions
from falcon_cli.baselines.pld import PldOptions, PromptLookup
from falcon_cli.baselines.sps import SpeculativeSampling, SpsOptions
from falcon_cli.console import say, warn
from falcon_cli.core import Drafter
from falcon_cli.drafter.checkpoint import SavedDrafter, load_drafter, read_config, shipped
from falcon_cli.drafter.copying import CopyFirst
from falcon_cli.drafter.dynamic import DynamicFalcon
from falcon_cli.drafter.propose import Falcon, FalconOptions
from falcon_cli.drafter.tuned import find_tree, misfit
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.spelling import did_you_mean
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.target.setting import Setting
from falcon_cli.tree.store import StoredTree, default_tree, load_tree


@dataclass(frozen=True)
class NoOptions:
    """A method without settings."""


class Means(Protocol):
    """What a recipe offers to draft with."""

    @property
    def target(self) -> TargetRecipe:
        """Which target."""

    @property
    def draft_model(self) -> str | None:
        """A small model, for sps."""

    @property
    def drafter(self) -> str | None:
        """A drafter's folder, for falcon."""

    @property
    def tree(self) -> str:
        """A tree's file, auto or dynamic, for falcon."""


@dataclass(frozen=True)
class Kit:
    """What a drafter may be built from."""

    target: LoadedTarget
    draft_model: LoadedTarget | None = None
    drafter: str | None = None
    """Folder of a distilled drafter."""
    tree: str = "auto"
    """Its tree: a file, auto or dynamic."""

    @classmethod
    def load(cls, means: Means, choices: Iterable["Choice"]) -> "Kit":
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
    build: Callable[[Kit, Any], Drafter]
    needs_draft_model: bool = False


@dataclass(frozen=True)
class Choice:
    """A method with its settings, as the user chose it."""

    name: str
    """As written: the name in tables and files."""
    method: Method
    options: Any

    def check(self, means: Means) -> None:
        """Refuse a method that lacks what it needs, before anything is loaded.

        Raises:
            UsageError: It needs a draft model, or a drafter.
            FalconError: The drafter's folder holds none.
        """
        if self.method.needs_draft_model and means.draft_model is None:
            raise UsageError(f"{self.name} needs --draft-model: any causal LM of the target's vocabulary")
        if isinstance(self.options, FalconOptions):
            read_config(drafter_folder(self.options.drafter or means.drafter, means.target.model))

    def build(self, kit: Kit) -> Drafter:
        """The drafter.

        Raises:
            FalconError: The draft model's vocabulary is not the target's, or the drafter or its tree do not fit.
        """
        return self.method.build(kit, self.options)


def _sps(kit: Kit, options: SpsOptions) -> Drafter:
    assert kit.draft_model is not None, "Choice.check comes first"
    check_same_vocabulary(kit.target, kit.draft_model)
    return SpeculativeSampling(kit.draft_model.model, kit.target.model.vocab_size, options)


def _falcon(kit: Kit, options: FalconOptions) -> Drafter:
    folder = drafter_folder(options.drafter or kit.drafter, kit.target.name)
    saved = load_drafter(folder, kit.target)
    tree = _tree(options.tree or kit.tree, folder, saved, kit.target)
    if tree.plain:
        return Autoregressive(kit.target.model.device)
    kind = DynamicFalcon if tree.dynamic else Falcon
    falcon = kind(saved.network, kit.target.model, options.trim(tree.shape), saved.vocabulary_W)
    if not options.copy:
        return falcon
    lookup = PldOptions(max_ngram=options.copy, min_ngram=options.copy)
    return CopyFirst(falcon, PromptLookup(kit.target.model.device, lookup))


def _tree(wanted: str, folder: Path, saved: SavedDrafter, target: LoadedTarget) -> StoredTree:
    """The tree of a file, or the best one known here: with `auto` as it is, with `dynamic` as a budget."""
    k, setting = saved.network.k, Setting.of(target)
    if wanted == "dynamic":
        tree = find_tree(folder, saved.about, k, setting)
        budget = default_tree(k) if tree is None or tree.plain else tree.shape
        return StoredTree(k, budget, {"dynamic": True})
    if wanted == "auto":
        tree = find_tree(folder, saved.about, k, setting) or StoredTree(k, default_tree(k))
        if tree.plain:
            say(
                "falcon tune-tree found plain decoding faster here than any tree: decoding plainly (--tree FILE drafts)"
            )
        return tree
    tree = load_tree(Path(wanted).expanduser(), k)
    if why := misfit(tree, saved.about, setting):
        warn(f"{wanted}: {why}; falcon tune-tree makes one for this")
    return tree


def drafter_folder(given: str | None, target_name: str) -> Path:
    """The drafter's folder: the one given, else the one that comes with falcon for the target.

    Raises:
        UsageError: Neither.
    """
    folder = Path(given).expanduser() if given else shipped(target_name)
    if folder is None:
        raise UsageError(f"falcon needs --drafter for {target_name}: the folder of a drafter made by falcon distill")
    return folder


def default_methods(means: Means) -> tuple[str, ...]:
    """What `bench` compares unless told: falcon is among them where it has a drafter."""
    return ("ar", "pld", "lookahead", *_falcon_if_any(means))


def default_method(means: Means) -> str:
    """What `generate` drafts with unless told: falcon and copies where there is a drafter, else prompt lookup."""
    return "falcon:copy=3" if _falcon_if_any(means) else "pld"


def _falcon_if_any(means: Means) -> tuple[str, ...]:
    return ("falcon",) if means.drafter or shipped(means.target.model) else ()


METHODS: dict[str, Method] = {
    "ar": Method("plain autoregression", NoOptions, lambda kit, _: Autoregressive(kit.target.model.device)),
    "pld": Method("prompt lookup", PldOptions, lambda kit, options: PromptLookup(kit.target.model.device, options)),
    "lookahead": Method(
        "lookahead decoding", LookaheadOptions, lambda kit, options: Lookahead(kit.target.model.device, options)
    ),
    "sps": Method("speculative sampling with a draft model", SpsOptions, _sps, needs_draft_model=True),
    "falcon": Method("Falcon's semi-autoregressive drafter", FalconOptions, _falcon),
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
    if kind == str | None:
        return value or None
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        return kind(value)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{option}={value}: not {_KINDS[kind]}") from error
