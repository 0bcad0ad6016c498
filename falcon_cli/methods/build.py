"""How each method's drafter is built from a context, the method's name and its options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from falcon_cli.console import say
from falcon_cli.core import Drafter
from falcon_cli.drafters.falcon.dynamic import DynamicFalcon
from falcon_cli.drafters.falcon.propose import Falcon, FalconOptions
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.rivals.lookahead import Lookahead
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.drafters.rivals.sps import SpeculativeSampling
from falcon_cli.drafters.saved.checkpoint import SavedDrafter, load_drafter, read_config
from falcon_cli.drafters.saved.choice import drafter_folder, drafter_of, tree_for
from falcon_cli.drafters.shared.copy_first import NGRAM, CopyFirst
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter, TreeOptions
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.methods.context import DraftingContext
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.vocabulary import foreign_ids, ordinary
from falcon_cli.tree.store import CopyPolicy, StoredTree


def autoregressive(context: DraftingContext, name: str, options: Any) -> Drafter:
    """Plain decoding."""
    return Autoregressive(context.target.model.device)


def prompt_lookup(context: DraftingContext, name: str, options: Any) -> Drafter:
    """Prompt lookup."""
    return PromptLookup(context.target.model.device, options)


def lookahead(context: DraftingContext, name: str, options: Any) -> Drafter:
    """Lookahead decoding."""
    return Lookahead(context.target.model.device, options)


def speculative_sampling(context: DraftingContext, name: str, options: Any) -> Drafter:
    """Speculative sampling with a draft model.

    Raises:
        FalconError: The draft model's vocabulary is not the target's.
    """
    assert context.draft_model is not None, "MethodChoice.check comes first"
    target, draft = context.target, context.draft_model
    check_same_vocabulary(target, draft)
    foreign = foreign_ids(target.tokenizer, draft.tokenizer, target.model.embedding_rows, draft.model.embedding_rows)
    return SpeculativeSampling(draft.model, target.model.vocab_size, options, foreign)


def trained(context: DraftingContext, name: str, options: TreeOptions) -> Drafter:
    """A trained drafter with its tree, with copies where its options ask for them.

    Raises:
        FalconError: The drafter or its tree does not fit the target.
    """
    folder = folder_for(name, options, context.drafter, context.target.name)
    saved = load_drafter(folder, context.target)
    tree = tree_for(options.tree or context.tree, folder, saved, context.target)
    policy = _copy_policy(options, tree)
    if policy is None:
        return _with_tree(context, options, saved, tree)
    fallback = tree.beside_copies
    if fallback.plain:
        return with_copies(Autoregressive(context.target.model.device), policy, context.target)
    return with_copies(_with_tree(context, options, saved, fallback), policy, context.target)


def _copy_policy(options: TreeOptions, tree: StoredTree) -> CopyPolicy | None:
    """How to copy: what the options say, else what `falcon tune-tree` found best, else the default; None is never."""
    if not isinstance(options, FalconOptions) or options.copy == 0:
        return None
    best = tree.copying or CopyPolicy(NGRAM, PldOptions.length, tree.shape)
    if options.copy is None and best.tokens == 0:
        return None
    tokens = options.length or best.tokens or PldOptions.length
    return replace(best, ngram=options.copy or best.ngram, tokens=tokens)


def _with_tree(context: DraftingContext, options: TreeOptions, saved: SavedDrafter, tree: StoredTree) -> Drafter:
    """A saved drafter with a tree; plain decoding where that was found faster than any tree."""
    if tree.plain:
        say("falcon tune-tree found plain decoding faster here than any tree: decoding plainly (another --tree drafts)")
        return Autoregressive(context.target.model.device)
    drafter = drafter_of(saved, context.target, options.trim(tree.shape))
    if not tree.dynamic:
        return drafter
    if not isinstance(drafter, Falcon):
        raise UsageError(f"{saved.method} has no dynamic trees: leave out tree=dynamic")
    return DynamicFalcon.of(drafter, drafter.shape)


def with_copies(drafter: Drafter, policy: CopyPolicy, target: LoadedTarget) -> Drafter:
    """Copies first, and a drafter where there are none; copies alone where it drafts nothing itself."""
    options = PldOptions(max_ngram=policy.ngram, min_ngram=policy.ngram, length=policy.tokens)
    lookup = PromptLookup(target.model.device, options)
    return CopyFirst(drafter, lookup) if isinstance(drafter, TreeDrafter) else lookup


def folder_for(name: str, options: TreeOptions, given: str | None, target_name: str) -> Path:
    """The folder of a trained method's drafter; its config.json is read, to see that it is one.

    Raises:
        UsageError: None is named and none is shipped.
        FalconError: The folder holds no drafter of this method.
    """
    folder = drafter_folder(options.drafter or given, target_name, name, strict=options.drafter is not None)
    read_config(folder, name)
    return folder


def check_same_vocabulary(target: LoadedTarget, draft: LoadedTarget) -> None:
    """Both models must mean the same by the id of an ordinary token; added ones may differ.

    Raises:
        FalconError: They do not.
    """
    ours, theirs = ordinary(target.tokenizer), ordinary(draft.tokenizer)
    if ours != theirs:
        differing = len(set(ours.items()) ^ set(theirs.items()))
        raise FalconError(
            f"draft model {draft.name} has another vocabulary than {target.name} ({len(theirs)} against {len(ours)} "
            f"ordinary tokens, {differing} entries differ); a draft model must share the target's tokenizer"
        )
    last = max(ours.values(), default=-1)
    if draft.model.vocab_size <= last:
        raise FalconError(
            f"draft model {draft.name} scores {draft.model.vocab_size} tokens, the vocabulary has {last + 1}"
        )
