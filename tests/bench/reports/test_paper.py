import io
from pathlib import Path

import pytest
from rich.console import Console

from falcon_cli.bench.reports.paper import TABLES, check_identity, drawn, markdown
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.schema import BenchRecipe

RECIPES = Path(__file__).parents[3] / "recipes" / "bench"
NAMES = {
    4: {"falcon": "tree+csgd", "eagle": "chain", "pld": "chain+csgd"},
    5: {"falcon": "k=3", "eagle": "k=2", "pld": "a further one"},
}


@pytest.fixture
def documents(results):
    """Two data sets of the paper's, and one that it does not have."""
    return {name: {**results, "dataset": name} for name in ("mt-bench", "gsm8k", "mine")}


def named(results, names):
    """The results with methods called by other names."""
    return {**results, "methods": {names.get(name, name): figures for name, figures in results["methods"].items()}}


def rows(text):
    """(data set, method) → {heading: cell}."""
    head, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    return {(line[0], line[1].strip("`")): dict(zip(head, line, strict=True)) for line in lines}


def test_speedups_have_intervals_and_loop_free_beside_them_and_the_papers_four_targets(documents, results):
    table = rows(markdown(1, documents))
    figures = results["methods"]["falcon"]
    low, high = figures["speedup_ci95"]
    for dataset, published in (("mt-bench", "3.10x 2.97x 2.94x 3.11x"), ("gsm8k", "2.92x 3.13x 2.91x 3.10x")):
        row = table[dataset, "falcon"]
        assert row["ours: speedup [95 %]"] == f"{figures['speedup']:.2f}x [{low:.2f}, {high:.2f}]"
        assert row["ours: loop-free speedup"] == f"{figures['loop_free']['speedup']:.2f}x"
        assert [row[head] for head in row if head.startswith("paper")] == published.split()
    assert table["mt-bench", "falcon"]["paper: Vicuna-7B on one H800, batch 1, greedy"] == "3.10x"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_the_paper_is_not_quoted_for_is_a_dash_and_the_line_below_says_where_it_is(documents, number):
    text = markdown(number, documents)
    for key, row in rows(text).items():
        published = {cell for head, cell in row.items() if head.startswith("paper")}
        assert (published == {"–"}) == (key not in {("mt-bench", "falcon"), ("gsm8k", "falcon")}), key
    assert f"paper: arXiv 2412.12639, Table {number}: its own targets on its own machine." in text
    assert "whose cells are in the paper's own Tables 1-3" in text


def test_the_acceptance_rate(documents, results):
    row = rows(markdown(2, documents))["gsm8k", "falcon"]
    *ours, published = row.values()
    figures = results["methods"]["falcon"]
    both = [figures["acceptance_rate"], figures["loop_free"]["acceptance_rate"]]
    assert (ours[2:], published) == ([f"{100 * alpha:.0f} %" for alpha in both], "74–80 %")
    assert all("on one H800, batch 1, greedy" in head for head in row if head.startswith("paper"))


def test_both_ways_of_counting_accepted_tokens_stand_side_by_side(documents, results):
    text = markdown(3, documents)
    row = rows(text)["gsm8k", "falcon"]
    tau = results["methods"]["falcon"]["accepted_length"]
    assert (row["ours: τ"], row["ours: tokens/cycle = τ + 1"]) == (f"{tau:.2f}", f"{tau + 1:.2f}")
    free = float(row["ours: loop-free tokens/cycle"]) - float(row["ours: loop-free τ"])
    assert free == pytest.approx(1, abs=0.011)
    assert list(row.values())[-1] == "2.8–4.0"
    assert "three EAGLE cells for Vicuna-7B include the bonus token" in text
    assert "EAGLE cells" not in markdown(2, documents)


@pytest.mark.parametrize(
    ("key", "change"),
    [("acceptance_rate", -0.01), ("accepted_length", 1), ("tokens_per_cycle", 1)],
)
def test_figures_counted_another_way_are_found_out(documents, results, key, change):
    results["methods"]["falcon"][key] += change
    with pytest.raises(AssertionError, match="falcon: "):
        markdown(3, documents)


def test_the_loop_free_figures_are_held_to_the_same(results):
    figures = results["methods"]["falcon"]
    check_identity("falcon", figures)
    figures["loop_free"]["acceptance_rate"] += 0.01
    with pytest.raises(AssertionError, match="falcon loop-free: "):
        check_identity("falcon", figures)


@pytest.mark.parametrize(
    ("number", "published"),
    [
        (4, {"chain": "2.06x 1.64", "chain+csgd": "2.27x 2.13", "tree": "2.65x 2.78", "tree+csgd": "3.10x 3.34"}),
        (5, {"k=2": "3.10x 3.34", "k=3": "2.96x 2.52", "k=4": "2.86x 2.35"}),
    ],
)
def test_rows_are_methods_of_these_names_in_the_papers_order_and_further_ones_follow(results, number, published):
    names = NAMES[number]
    table = rows(markdown(number, {"mt-bench": named(results, names)}))
    measured = [names.get(name, name) for name in results["methods"]]
    further = [name for name in measured if name not in published]
    assert [name for _, name in table] == [*published, *further]
    for name, figures in published.items():
        _, _, speedup, loop_free, tau, *theirs = table["mt-bench", name].values()
        assert theirs == figures.split()
        assert ("–" in (speedup, loop_free, tau)) == (name not in measured)
    for name in further:
        _, _, speedup, _, tau, *theirs = table["mt-bench", name].values()
        assert speedup.startswith(tuple("0123456789"))
        assert float(tau) >= 0
        assert theirs == ["–", "–"]


def test_the_papers_rows_are_of_mt_bench_alone(results):
    table = rows(markdown(5, {"gsm8k": named(results, NAMES[5])}))
    assert ("gsm8k", "k=4") not in table
    assert list(table["gsm8k", "k=3"].values())[-2:] == ["–", "–"]


@pytest.mark.parametrize("number", TABLES)
def test_the_line_below_names_all_that_ours_was_run_on(documents, number):
    text = markdown(number, documents)
    ours = next(line for line in text.splitlines() if line.startswith("- ours: "))
    assert "SmolLM2-135M-Instruct · float32 on cpu, 2 threads · Imaginary 2000" in ours
    assert "mt-bench, 12 prompts; gsm8k, 12 prompts; mine, 12 prompts · at most 256 new tokens a turn" in ours
    assert text.startswith("# ")
    assert f"beside Table {number} of arXiv 2412.12639" in text.splitlines()[0]


def test_data_sets_that_were_run_in_other_ways_are_told_apart(documents):
    documents["gsm8k"] = {**documents["gsm8k"], "settings": {**documents["gsm8k"]["settings"], "threads": 8}}
    ours = [line for line in markdown(1, documents).splitlines() if line.startswith("- ours: ")]
    assert len(ours) == 2
    assert "2 threads" in ours[0]
    assert "mt-bench, 12 prompts; mine, 12 prompts" in ours[0]
    assert "8 threads" in ours[1]
    assert "· gsm8k, 12 prompts ·" in ours[1]


def test_a_method_that_is_not_lossless_is_named(documents):
    assert "NOT the target's own output, so no speedup at all: pld on mt-bench, pld on gsm8k" in markdown(1, documents)
    for results in documents.values():
        results["methods"].pop("pld", None)
    assert "NOT the target's" not in markdown(1, documents)


@pytest.mark.parametrize("number", TABLES)
def test_the_terminal_shows_the_same(documents, number):
    out = io.StringIO()
    Console(file=out, width=120).print(drawn(number, {"mt-bench": documents["mt-bench"]}))
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= 120
    assert "…" not in shown
    words = " ".join(shown.split())
    assert f"beside Table {number} of arXiv 2412.12639" in words
    assert "SmolLM2-135M-Instruct · float32 on cpu, 2 threads" in words
    for (_, name), row in rows(markdown(number, {"mt-bench": documents["mt-bench"]})).items():
        line = next(line for line in shown.splitlines() if line.startswith("  ") and name in line.split()[:2])
        assert [cell for cell in list(row.values())[2:] if cell not in line] == []


def test_a_label_in_brackets_is_no_markup(documents, results):
    out = io.StringIO()
    Console(file=out, width=120).print(drawn(1, {"mt-bench": named(results, {"falcon": "[red]mine"})}))
    assert "[red]mine" in out.getvalue()


def labels(recipe):
    return [method.rpartition(" as ")[2] for method in recipe.methods]


def test_the_recipes_of_tables_1_to_3_are_one_run():
    recipes = [load_recipe(BenchRecipe, RECIPES / f"paper-table-{number}.yaml") for number in (1, 2, 3)]
    assert [recipe.table for recipe in recipes] == [1, 2, 3]
    assert len({repr({**vars(recipe), "table": None}) for recipe in recipes}) == 1
    assert recipes[0].datasets == ("mt-bench", "humaneval", "gsm8k")
    assert labels(recipes[0]) == ["ar", "pld", "lookahead", "sps", "medusa", "eagle", "falcon"]


@pytest.mark.parametrize("number", [4, 5])
def test_the_recipes_of_tables_4_and_5_have_the_papers_rows(number):
    recipe = load_recipe(BenchRecipe, RECIPES / f"paper-table-{number}.yaml")
    assert (recipe.table, recipe.datasets) == (number, ("mt-bench",))
    assert tuple(labels(recipe)) == TABLES[number].rows
