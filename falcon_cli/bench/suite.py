"""`falcon bench` on one data set or several: an ordinary run for each, and one of the paper's tables over all.

Several data sets lie in one folder:

OUT/<data set>/    the run folder of each          OUT/results.json   all results documents in one
OUT/table.md       the paper's table, ours beside it

With --resume a data set that is wholly measured is taken as it is, so that several of the paper's tables are several
views of one suite; one that was interrupted goes on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from falcon_cli.bench.figures.document import ResultsDocument
from falcon_cli.bench.folder import BenchFolder, file_name
from falcon_cli.bench.reports.paper import drawn, markdown
from falcon_cli.bench.reports.table import table
from falcon_cli.bench.run import bench, failed_methods, resolved
from falcon_cli.console import say, show
from falcon_cli.data.datasets import load
from falcon_cli.errors import UsageError
from falcon_cli.recipe.run_folder import write_text
from falcon_cli.recipe.schema import BenchRecipe


@dataclass(frozen=True)
class SuiteResult:
    """What a command has measured."""

    document: Mapping[str, Any]
    """One data set's results document; of several {"schema": 1, "table": the paper's number or None, "datasets"}."""
    datasets: dict[str, ResultsDocument]
    """Data set → its results document."""

    def failed_methods(self) -> list[str]:
        """Methods whose output was not the target's own, with the data set where there are several."""
        return [
            f"{method} on {name}" if len(self.datasets) > 1 else method
            for name, results in self.datasets.items()
            for method in failed_methods(results)
        ]


def run(recipe: BenchRecipe, argv: Sequence[str], out: Path | None = None, resume: bool = False) -> SuiteResult:
    """Run a benchmark, show each data set's table, then the paper's, and say what was written.

    Raises:
        UsageError: Several data sets and no `out`, or a folder holds a run that cannot be gone on with.
        FalconError: Anything of the recipe cannot be used.
    """
    if recipe.datasets:
        outcome = _several(recipe, argv, out, resume)
    else:
        results = bench(recipe, argv, out, resume)
        outcome = SuiteResult(results, {results["dataset"]: results})
        show(table(results))
    if recipe.table is not None:
        show(drawn(recipe.table, outcome.datasets))
    if out is not None:
        _write(recipe, outcome, out)
    return outcome


def _several(recipe: BenchRecipe, argv: Sequence[str], out: Path | None, resume: bool) -> SuiteResult:
    if out is None:
        raise UsageError("several data sets need --out: the folder that keeps the run of each")
    if (out / "records.jsonl").is_file():
        raise UsageError(f"{out} holds the run of one data set: name another --out")
    plans = _plans(recipe)
    for name, plan in plans.items():  # before the first is measured for hours
        BenchFolder(out / name).holds_run(plan, resume)
    datasets = {}
    for place, (name, plan) in enumerate(plans.items(), start=1):
        say(f"{name}: data set {place} of {len(plans)}")
        datasets[name] = _measured(plan, out / name, resume) or bench(plan, argv, out / name, resume)
        show(table(datasets[name]))
    return SuiteResult({"schema": 1, "table": recipe.table, "datasets": datasets}, datasets)


def _plans(recipe: BenchRecipe) -> dict[str, BenchRecipe]:
    """Folder → the recipe for that data set alone; every data set is read once to see that it is there."""
    plans: dict[str, BenchRecipe] = {}
    for dataset in recipe.datasets:
        name = file_name(load(dataset, recipe.limit, recipe.keep_going).name)
        if not name or name in plans:
            raise UsageError(f"datasets: {dataset} would have the same folder as another; give it another name")
        plans[name] = resolved(replace(recipe, dataset=dataset, datasets=(), table=None))
    return plans


def _measured(plan: BenchRecipe, path: Path, resume: bool) -> ResultsDocument | None:
    """The results of a data set that needs nothing more."""
    folder = BenchFolder(path)
    return folder.results() if folder.holds_run(plan, resume) else None


def _write(recipe: BenchRecipe, outcome: SuiteResult, out: Path) -> None:
    """The files over all data sets, and a line on what there is now; each run has written its own."""
    written = "report.md, results.json, speedup.png and answers/"
    if recipe.datasets:
        document = json.dumps(outcome.document, indent=1, allow_nan=False, ensure_ascii=False)
        write_text(out / "results.json", document + "\n")
        written = f"results.json, and for each data set {written}"
    if recipe.table is not None:
        write_text(out / "table.md", markdown(recipe.table, outcome.datasets))
        written = f"table.md, {written}"
    say(f"wrote {out}/{written}")
