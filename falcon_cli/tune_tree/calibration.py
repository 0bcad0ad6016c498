"""The first two stages: the target's greedy answers, and where each drafter's guesses rank on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from falcon_cli.console import progress
from falcon_cli.core import Drafter
from falcon_cli.errors import FalconError
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.load import LoadedTarget
from falcon_cli.tune_tree.entries import TunedDrafter
from falcon_cli.tune_tree.folder import TuningFolder
from falcon_cli.tune_tree.measure.ranks import RankedText, RankProbe
from falcon_cli.tune_tree.measure.texts import CalibrationPrompt, GreedyText, answers_to, prompts_of, share_out
from falcon_cli.tune_tree.search.candidates import DrafterProfile
from falcon_cli.tune_tree.search.probabilities import cross_validated

NEEDED = 500
"""Drafts that a stable tree takes: with fewer, a probability of a tenth is known to a fifth of itself at best."""


@dataclass(frozen=True)
class CalibrationTexts:
    """What trees are fitted to, and what they are validated on."""

    texts: tuple[GreedyText, ...]
    validation_prompts: tuple[CalibrationPrompt, ...]
    """Other prompts, which no tree is fitted to; perhaps none."""


def calibrate(recipe: TuneTreeRecipe, target: LoadedTarget, drafter: Drafter, folder: TuningFolder) -> CalibrationTexts:
    """Let the target answer the calibration prompts; answers in the folder are not asked for again.

    Args:
        recipe: Which prompts, and how many.
        target: Answers greedily, so its answers are the same with every drafter.
        drafter: The fastest drafter known before the tuning.
        folder: Keeps the answers.

    Raises:
        FalconError: The data set gives too few prompts.
    """
    prompts, validation_prompts = share_out(prompts_of(recipe, target, folder.date), recipe)
    with progress("answering", len(prompts), "prompts") as bar:
        texts = answers_to(prompts, target, drafter, recipe.max_new_tokens, folder.answers, bar.advance)
    return CalibrationTexts(tuple(texts), tuple(validation_prompts))


def profile_drafters(
    recipe: TuneTreeRecipe,
    target: LoadedTarget,
    entries: Mapping[int, TunedDrafter],
    texts: Sequence[GreedyText],
    folder: TuningFolder,
) -> dict[int, DrafterProfile]:
    """k → the drafter's rank paths on the texts, and the α that suits them; ranks in the folder are kept.

    Raises:
        FalconError: The texts give too few drafts.
    """
    profiles = {}
    with progress("ranking", len(texts) * len(entries), "answers") as bar:
        for k, entry in entries.items():
            passes = entry.drafter.most_passes(recipe.passes)
            probe = RankProbe(entry.drafter, k * passes, recipe.width)
            ranked = folder.ranked(entry.name, probe, texts, target.model, bar.advance)
            _check_enough(ranked)
            weight = cross_validated(ranked, probe.depth, probe.width, k)
            profiles[k] = DrafterProfile(k, entry.drafter.chained, ranked, probe.width, weight, passes)
    return profiles


def _check_enough(ranked: Sequence[RankedText]) -> None:
    drafts = sum(path.complete for text in ranked for path in text.paths)
    if drafts < NEEDED:
        raise FalconError(
            f"the calibration text gives {drafts} drafts, and a stable tree takes {NEEDED}: raise --prompts or "
            "--max-new-tokens"
        )
