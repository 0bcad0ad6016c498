"""`falcon tune-tree` in stages: calibrate, profile, costs, search, validate, result."""

from collections.abc import Mapping, Sequence

from falcon_cli.console import progress, say
from falcon_cli.costs.table import CostTable, save_costs
from falcon_cli.drafters.saved.tuned import tuned_file
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.target.setting import Setting
from falcon_cli.tree.store import save_tree
from falcon_cli.tune_tree.calibration import calibrate, profile_drafters
from falcon_cli.tune_tree.entries import (
    TunedDrafter,
    baselines_of,
    contenders_of,
    current_drafter,
    folders_of,
    load_entries,
)
from falcon_cli.tune_tree.folder import TuningFolder
from falcon_cli.tune_tree.measure.cost_cache import check_covers, given_costs, local_costs
from falcon_cli.tune_tree.measure.texts import CalibrationPrompt
from falcon_cli.tune_tree.measure.validation import PLAIN, MeasuredSpeed, validate, warn_where_costs_are_off
from falcon_cli.tune_tree.result import DrafterSource, TuningResult
from falcon_cli.tune_tree.search.search import TreeSearch


def tune_tree(recipe: TuneTreeRecipe, argv: Sequence[str], resume: bool = False) -> TuningResult:
    """Fit a tree to drafter, text and machine; `resume` continues the tuning in the folder that `out` names.

    Raises:
        FalconError: Something that the recipe names cannot be used.
    """
    folders, given = folders_of(recipe), given_costs(recipe)
    target = load_target(recipe.target)
    setting = Setting.of(target)
    entries = load_entries(folders, target)
    names = [entry.name for entry in entries.values()]
    folder = TuningFolder.open(recipe, argv, names, str(setting), resume)
    try:
        result = _tune(recipe, argv, folder, target, setting, entries, given)
    except KeyboardInterrupt:
        how = "the same command goes on" if recipe.out is None else "add --resume to go on"
        say(f"what was measured is kept in {folder.path}; {how}")
        raise
    _keep(result, entries)
    return result


def _tune(
    recipe: TuneTreeRecipe,
    argv: Sequence[str],
    folder: TuningFolder,
    target: LoadedTarget,
    setting: Setting,
    entries: Mapping[int, TunedDrafter],
    given: CostTable | None,
) -> TuningResult:
    """All stages; each keeps what it measured in the folder, or in the cache."""
    first = next(iter(entries.values()))
    baselines = baselines_of(first, setting)
    drafters = {k: entry.drafter for k, entry in entries.items()}
    sources = {k: DrafterSource(entry.name, entry.folder) for k, entry in entries.items()}

    calibration = calibrate(recipe, target, current_drafter(first, baselines, target), folder)
    profiles = profile_drafters(recipe, target, entries, calibration.texts, folder)
    names = [source.name for source in sources.values()]
    costs = given or local_costs(recipe, target.model, setting, drafters, names)
    check_covers(costs, drafters)
    search = TreeSearch.of(recipe, calibration.texts, profiles, costs, baselines)
    # Runs on this machine say nothing of another one, whose costs the search went by.
    prompts = calibration.validation_prompts if costs.device == setting.device else ()
    measured = _validate(recipe, search, entries, target, prompts, folder)
    return TuningResult(recipe, setting, sources, search, measured, folder.path, tuple(argv))


def _validate(
    recipe: TuneTreeRecipe,
    search: TreeSearch,
    entries: Mapping[int, TunedDrafter],
    target: LoadedTarget,
    prompts: Sequence[CalibrationPrompt],
    folder: TuningFolder,
) -> dict[str, MeasuredSpeed]:
    """Contender → its speed on the prompts, runs in the folder included; empty without prompts."""
    if not prompts:
        return {}
    contenders = contenders_of(search, entries, target)
    trees = {name: tree.shape for name, tree in search.contenders.items()}
    policies = {name: copies.policy for name, copies in search.copy_candidates.items()}
    log = folder.validation({**trees, **policies})
    with progress("validating", len(prompts), "prompts") as bar:
        measured = validate(contenders, prompts, target, recipe.max_new_tokens, recipe.seed, log, bar.advance)
    warn_where_costs_are_off(measured[PLAIN], search.plain_tokens_per_second)
    return measured


def _keep(result: TuningResult, entries: Mapping[int, TunedDrafter]) -> None:
    """Write the winner and the costs: into the folder, and where `--tree auto` looks if the winner ran here."""
    tree = result.tree
    save_tree(result.folder / "tree.json", tree)
    if result.measured:
        save_tree(tuned_file(entries[result.k].saved.about, result.setting), tree)
    save_costs(result.folder / "costs.json", result.search.costs)
