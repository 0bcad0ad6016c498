"""`falcon tune-tree` from recipe to winner: answers, ranks, costs, search, proof."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from falcon_cli.console import progress, say, warn
from falcon_cli.core import Drafter
from falcon_cli.drafters.falcon.dynamic import DynamicFalcon
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.rivals.pld import PldOptions
from falcon_cli.drafters.saved.checkpoint import SavedDrafter, load_drafter, read_config
from falcon_cli.drafters.saved.choice import default_tree_of, drafter_folder, drafter_of
from falcon_cli.drafters.saved.tuned import drafter_name, find_tree, tuned_file
from falcon_cli.drafters.shared.copy_first import NGRAM
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.methods.build import with_copies
from falcon_cli.native.build import version
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.sources import home
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy, StoredTree, save_tree
from falcon_cli.tune_tree.folder import TuningFolder
from falcon_cli.tune_tree.measure.cost_table import CostTable, load_costs, save_costs
from falcon_cli.tune_tree.measure.costs import Rounds, draft_costs, rest_cost, verify_costs, with_interference
from falcon_cli.tune_tree.measure.ranks import RankProbe, tokens_per_cycle
from falcon_cli.tune_tree.measure.texts import NEEDED, CalibrationPrompt, GreedyText, answers_to, prompts_of, share_out
from falcon_cli.tune_tree.measure.validation import PLAIN, validate
from falcon_cli.tune_tree.report.document import BUILT_IN, COPIES_SO_FAR, CURRENT, DYNAMIC, Tuning
from falcon_cli.tune_tree.search.candidates import (
    DrafterProfile,
    TreeCandidate,
    candidates,
    finalists,
    predicted,
    priced,
    unlike,
)
from falcon_cli.tune_tree.search.copies import CopyCandidate, FallbackTree, copies_in, copy_candidates, expected
from falcon_cli.tune_tree.search.copies import name_of as name_of_copier
from falcon_cli.tune_tree.search.probabilities import cross_validated

MEASURE = "measure"
_TRUSTED = 1.2
"""Plain decoding may run by this much faster or slower than foretold."""
_NODES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class Entry:
    """A drafter that takes part."""

    folder: Path
    saved: SavedDrafter
    drafter: TreeDrafter

    @property
    def name(self) -> str:
        """Of its weights."""
        return drafter_name(self.saved.about)


def tune_tree(recipe: TuneTreeRecipe, argv: Sequence[str]) -> Tuning:
    """Fit a tree to drafter, text and machine.

    Raises:
        FalconError: Anything of the recipe cannot be used.
    """
    folders = _folders(recipe)
    table = load_costs(Path(recipe.cost).expanduser()) if recipe.cost not in (None, MEASURE) else None
    target = load_target(recipe.target)
    setting = Setting.of(target)
    entries = _entries(folders, target)
    folder = TuningFolder.open(recipe, argv, [one.name for one in entries.values()], str(setting))
    try:
        return _tune(recipe, argv, folder, target, setting, entries, table)
    except KeyboardInterrupt:
        say(f"what was measured is kept in {folder.path}; the same command goes on")
        raise


def _tune(
    recipe: TuneTreeRecipe,
    argv: Sequence[str],
    folder: TuningFolder,
    target: LoadedTarget,
    setting: Setting,
    entries: dict[int, Entry],
    table: CostTable | None,
) -> Tuning:
    calibration, proof = share_out(prompts_of(recipe, target), recipe)
    first = next(iter(entries.values()))
    current = _current(first, setting)
    now = Autoregressive(target.model.device) if current.plain else first.drafter.with_tree(current.shape)
    with progress("answering", len(calibration), "prompts") as bar:
        texts = answers_to(calibration, target, now, recipe.max_new_tokens, folder.answers, bar.advance)
    profiles = {}
    with progress("ranking", len(texts) * len(entries), "answers") as bar:
        for k, entry in entries.items():
            depth = k * entry.drafter.most_passes(recipe.passes)
            probe = RankProbe(entry.drafter, depth, recipe.width)
            ranked = folder.ranked(entry.name, probe, texts, target.model, bar.advance)
            _check_enough([path.complete for text in ranked for path in text.paths])
            weight = cross_validated(ranked, depth, probe.width, k)
            profiles[k] = DrafterProfile(k, entry.drafter.chained, ranked, probe.width, weight)
    context = sum(len(one.prompt.ids) + len(one.answer) / 2 for one in texts) / len(texts)
    table = table or _costs(recipe, target, setting, entries)
    _check_prices(table, entries)
    found = [
        one
        for k, profile in profiles.items()
        for one in predicted(
            profile,
            candidates(profile, table, context, recipe.nodes, entries[k].drafter.most_passes(recipe.passes)),
        )
    ]
    best = finalists(found, recipe.finalists)
    others: dict[str, TreeCandidate] = {}
    for name, tree in ((BUILT_IN, StoredTree(current.k, default_tree_of(first.saved))), (CURRENT, current)):
        if tree.shape.paths and tree.shape not in [one.shape for one in (*best, *others.values()) if one.k == tree.k]:
            others[name] = _priced(tree, profiles[tree.k], table, context)
    tuning = Tuning(recipe, setting, table, context, profiles, tuple(found), tuple(best), others, folder.path)
    tuning = replace(tuning, copy_candidates=_copiers(tuning, entries, texts, current))
    if table.device == setting.device and proof:
        tuning = _proved(tuning, entries, target, proof, folder)
    return _kept(tuning, entries, argv)


def _copiers(
    tuning: Tuning, entries: dict[int, Entry], texts: Sequence[GreedyText], current: StoredTree
) -> dict[str, CopyCandidate]:
    """Ways of copying beside Falcon that are worth a run, and the one that copy=auto took before."""
    if next(iter(entries.values())).saved.method != "falcon":
        return {}
    table, context, found = tuning.table, tuning.context, tuning.found
    ways = [
        one for profile in tuning.profiles.values() for one in copy_candidates(profile, found, texts, table, context)
    ]
    best = {name_of_copier(one): one for one in unlike(ways, tuning.recipe.finalists, lambda one: one.copying.ngram)}
    now = current.copying or CopyPolicy(NGRAM, PldOptions.length, current.shape)
    fallback = FallbackTree.of(tuning.profiles[current.k], now.shape, table, context)
    copies = [copies_in(text, now.ngram) for text in texts]
    so_far = expected(fallback, copies, (now.ngram, max(1, now.tokens)), table, context)
    return best if so_far in best.values() else {**best, COPIES_SO_FAR: so_far}


def _proved(
    tuning: Tuning,
    entries: dict[int, Entry],
    target: LoadedTarget,
    prompts: Sequence[CalibrationPrompt],
    folder: TuningFolder,
) -> Tuning:
    """The tuning with its trees run for real."""
    contenders: dict[str, Drafter] = {PLAIN: Autoregressive(target.model.device)}
    for name, one in tuning.contenders.items():
        contenders[name] = entries[one.k].drafter.with_tree(one.shape)
    for one in tuning.finalists[:1]:
        if isinstance(drafter := entries[one.k].drafter, Falcon):
            contenders[DYNAMIC] = DynamicFalcon.of(drafter, one.shape)
    for name, way in tuning.copy_candidates.items():
        fallback = entries[way.k].drafter.with_tree(way.copying.shape) if way.nodes else contenders[PLAIN]
        contenders[name] = with_copies(fallback, way.copying, target)
    shapes = {name: one.shape for name, one in tuning.contenders.items()}
    recipe, log = (
        tuning.recipe,
        folder.proof(shapes | {name: one.copying for name, one in tuning.copy_candidates.items()}),
    )
    with progress("proving", len(prompts), "prompts") as bar:
        measured = validate(contenders, prompts, target, recipe.max_new_tokens, recipe.seed, log, bar.advance)
    tuning = replace(tuning, measured=measured)
    _check_quiet(tuning)
    return tuning


def _priced(tree: StoredTree, profile: DrafterProfile, table: CostTable, context: float) -> TreeCandidate:
    """A tree that was not made of these texts."""
    path_probabilities = profile.probabilities(tree.shape.height)
    probabilities = (1.0, *(path_probabilities.probability(path) for path in tree.shape.paths))
    one = priced(tree.shape, probabilities, profile, table, context)
    return replace(one, tokens_per_cycle=tokens_per_cycle(profile.texts, tree.shape))


def _kept(tuning: Tuning, entries: dict[int, Entry], argv: Sequence[str]) -> Tuning:
    """The tuning with its winner written down, where `--tree auto` looks if it was run here."""
    winner = tuning.winner
    k, shape = tuning.k, TreeShape(()) if winner is None else winner.shape
    about = entries[k].saved.about
    tree = StoredTree(k, shape, _made_by(tuning, about), tuning.copying)
    save_tree(tuning.folder / "tree.json", tree)
    if tuning.measured:
        save_tree(tuned_file(about, tuning.setting), tree)
    save_costs(tuning.folder / "costs.json", tuning.table)
    return replace(tuning, tree=tree, drafter=str(entries[k].folder), argv=tuple(argv))


def _made_by(tuning: Tuning, about: dict[str, Any]) -> dict[str, Any]:
    winner = tuning.winner
    made_by: dict[str, Any] = {
        "by": "falcon tune-tree",
        "date": date.today().isoformat(),
        "drafter": drafter_name(about),
    }
    made_by |= {"target": tuning.setting.target, "device": tuning.table.device, "weights": tuning.table.weights}
    if winner is None:
        return made_by | {"plain": True}
    if tuning.winner_name == DYNAMIC:
        made_by |= {"dynamic": True}
    made_by |= {"predicted_tokens_per_second": round(winner.tokens_per_second, 2)}
    made_by |= {"predicted_tokens_per_cycle": round(winner.tokens_per_cycle, 3)}
    outcome = tuning.measured.get(str(tuning.winner_name))
    if outcome:
        made_by |= {"measured_tokens_per_second": round(outcome.tokens_per_second, 2)}
        made_by |= {"measured_tokens_per_cycle": round(outcome.tokens_per_cycle, 3)}
        made_by |= {"speedup_over_plain": round(outcome.speedup, 3)}
    return made_by


def _folders(recipe: TuneTreeRecipe) -> list[Path]:
    """Folders of the drafters, each looked at before anything is loaded."""
    folders = [drafter_folder(name, recipe.target.model) for name in recipe.drafters or (None,)]
    for folder in folders:
        read_config(folder)
    return folders


def _entries(folders: Sequence[Path], target: LoadedTarget) -> dict[int, Entry]:
    """k → its drafter, in the order given."""
    entries: dict[int, Entry] = {}
    for folder in folders:
        saved = load_drafter(folder, target)
        k = saved.network.k
        if k in entries:
            raise UsageError(f"{entries[k].folder} and {folder} both have k = {k}: name one drafter for each k")
        drafter = drafter_of(saved, target, TreeShape.chain(k))
        entries[k] = Entry(folder, saved, drafter)
    return entries


def _current(entry: Entry, setting: Setting) -> StoredTree:
    """What `--tree auto` takes before this tuning."""
    k = entry.drafter.k
    return find_tree(entry.folder, entry.saved.about, k, setting) or StoredTree(k, default_tree_of(entry.saved))


def _costs(recipe: TuneTreeRecipe, target: LoadedTarget, setting: Setting, entries: dict[int, Entry]) -> CostTable:
    """Prices on this setting and its kernels, measured once."""
    kernels = [version()] if setting.kernels == "native" else []
    names = [setting.key, *kernels, *(one.name for one in entries.values()), str(recipe.nodes)]
    kept = home() / "costs" / f"{'-'.join(names)}.json"
    if kept.is_file() and recipe.cost != MEASURE:
        say(f"costs as measured before ({kept}; --cost measure measures anew)")
        return load_costs(kept)
    nodes = (*(one for one in _NODES if one <= recipe.nodes), recipe.nodes + 1)
    room = target.model.context_limit - max(nodes)
    contexts = tuple(sorted({min(one, room) for one in recipe.contexts}))
    plan = Rounds(contexts, nodes, recipe.rounds)
    drafters = {k: one.drafter for k, one in entries.items()}
    with progress("measuring costs", plan.total, "rounds") as bar:
        table = CostTable(
            device=setting.device,
            target=setting.target,
            weights=setting.weights,
            verify=verify_costs(target.model, plan, bar.advance),
            draft=draft_costs(target.model, drafters, plan, bar.advance),
            rest=rest_cost(target.model),
            made_by={"measured": date.today().isoformat(), "rounds": plan.rounds, "setting": str(setting)},
        )
        table = with_interference(table, target.model, drafters, contexts[len(contexts) // 2])
    save_costs(kept, table)
    return load_costs(kept)  # rounded, as it will be read again


def _check_enough(complete: Sequence[bool]) -> None:
    drafts = sum(complete)
    if drafts < NEEDED:
        raise FalconError(
            f"the calibration text gives {drafts} drafts, and a stable tree takes {NEEDED}: raise --prompts or "
            "--max-new-tokens"
        )


def _check_quiet(tuning: Tuning) -> None:
    """Tell when plain decoding took another time than the cost table says: then the table is not to be trusted."""
    ratio = tuning.measured[PLAIN].tokens_per_second / tuning.plain_predicted
    if not 1 / _TRUSTED < ratio < _TRUSTED:
        warn(
            f"plain decoding ran at {ratio:.2f} times the speed that the costs foretell: the machine was busy then or "
            "is now; run again with --cost measure"
        )


def _check_prices(table: CostTable, entries: dict[int, Entry]) -> None:
    if missing := sorted(set(entries) - set(table.draft)):
        raise FalconError(
            f"the cost table knows drafts of k = {', '.join(map(str, sorted(table.draft)))}, not of k = {missing[0]}: "
            "add it, or leave that drafter out"
        )
