"""Writes the tables of the current campaign into the pages that show them: `make tables`. A test compares them.

A page marks a place with `<!-- tables: NAME -->` and `<!-- /tables -->`; what stands between is written here, from
docs/benchmarks/avx512/results.json alone.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CAMPAIGN = json.loads((ROOT / "docs" / "benchmarks" / "avx512" / "results.json").read_text(encoding="utf-8"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REGION = re.compile(r"(<!-- tables: ([\w-]+) -->\n).*?(<!-- /tables -->)", re.DOTALL)

SETS = {"mt-bench": "MT-Bench", "humaneval": "HumanEval", "gsm8k": "GSM8K"}
BEST = "falcon:copy=auto"
PEERS = {"hf": "`transformers.generate`", "llama-cpp": "llama.cpp"}
LABELS = {"falcon-32": "`falcon`, 32 nodes"}
HEADLINE = {"fp32": ("hf", "ar", "eagle", "falcon", "pld", BEST), "int8": ("llama-cpp", "ar", BEST)}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are text."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def runs(weights: str) -> list[dict[str, Any]]:
    """The campaign's run of each data set."""
    return [CAMPAIGN["runs"][f"{dataset}-{weights}"] for dataset in SETS]


def label(name: str) -> str:
    return PEERS.get(name) or LABELS.get(name) or f"`{name}`"


def whole(number: float) -> str:
    return f"{number:.0f}"


def speeds(weights: str, name: str) -> list[str]:
    """Tokens a second of a method or peer on each data set."""
    return [whole((run["methods"] | run["peers"])[name]["tokens_per_second"]) for run in runs(weights)]


def speedup(figures: dict[str, Any], bold: bool = False) -> str:
    return f"**{figures['speedup']:.2f}x**" if bold else f"{figures['speedup']:.2f}x"


def full(figures: dict[str, Any], bold: bool) -> str:
    """Speedup, its interval, tokens per cycle."""
    low, high = figures["speedup_ci95"]
    return f"{speedup(figures, bold)} [{low:.2f}, {high:.2f}], {figures['tokens_per_cycle']:.2f}"


def speed_table(weights: str) -> str:
    """Every method of the runs with these weights."""
    first = runs(weights)[0]
    rows = [[f"{label(name)}, tokens/s", *speeds(weights, name)] for name in ("ar", *first["peers"])]
    for name in first["methods"]:
        if name != "ar":
            rows.append([label(name), *(full(run["methods"][name], name == BEST) for run in runs(weights))])
    free = [run["methods"][BEST]["loop_free"] for run in runs(weights)]
    rows.append([f"{label(BEST)}, loop-free", *(f"{speedup(it)}, {it['tokens_per_cycle']:.2f}" for it in free)])
    return table(["method", *SETS.values()], rows)


def headline() -> str:
    """The README's table: the campaign in nine lines."""
    rows = []
    for weights, names in HEADLINE.items():
        for name in names:
            if name in PEERS or name == "ar":
                rows.append([f"{weights}: {label(name)}, tokens/s", *speeds(weights, name)])
            else:
                cells = [speedup(run["methods"][name], name == BEST) for run in runs(weights)]
                rows.append([f"{weights}: {label(name)}", *cells])
    return table(["weights: method", *SETS.values()], rows)


def against(weights: str, name: str, peer: str) -> str:
    """How many times as fast as a peer a method is, over the data sets."""
    pairs = [(run["methods"][name], run["peers"][peer]) for run in runs(weights)]
    ratios = [ours["tokens_per_second"] / theirs["tokens_per_second"] for ours, theirs in pairs]
    low, high = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    return low if low == high else f"{low} to {high}"


def headline_ratios() -> str:
    """The README's sentence on other engines."""
    hf, llama = against("fp32", BEST, "hf"), against("int8", BEST, "llama-cpp")
    return (
        f"That is {hf} times as fast as `transformers.generate` in fp32 and {llama} times as fast as llama.cpp in int8."
    )


def engines() -> str:
    """Plain decoding and the best method against other engines in the same run."""
    pairs = [("fp32", "hf"), ("int8", "llama-cpp"), ("int4", "llama-cpp")]
    rows = [[weights, PEERS[it], *(f"{against(weights, name, it)}x" for name in ("ar", BEST))] for weights, it in pairs]
    return table(["weights", "engine", label("ar"), label(BEST)], rows, left=2)


def cost(key: str, axis: str, head: Sequence[str]) -> str:
    """Milliseconds of a forward, and times the cost of one node."""
    document, rows = CAMPAIGN[key], []
    for name, times in document["milliseconds"].items():
        ratios = document["times_one"][name]
        cells = ["–" if ms is None else f"{ms:.1f} ({ratio:.2f})" for ms, ratio in zip(times, ratios, strict=True)]
        rows.append([name, *cells])
    return table([*head, *(f"{it:,}" for it in document[axis])], rows)


def quality() -> str:
    """What quantised weights cost."""
    document = CAMPAIGN["quality"]
    rows = [
        [
            weights,
            f"{it['question_perplexity']:.2f}",
            f"{it['answer_perplexity']:.3f}",
            f"{it['first_choice_alike']:.1%}",
            f"{it['answer_alike_until']:.0%}",
            f"{it['solved']} of {document['questions']}",
        ]
        for weights, it in document["weights"].items()
    ]
    head = ["weights", "perplexity, questions", "perplexity, answers", "same first choice", "same until", "solved"]
    return table(head, rows)


def profile() -> str:
    """Where a cycle's time goes."""
    document = CAMPAIGN["profile"]
    rows = [[part, *(f"{share:.1%}" for share in shares)] for part, shares in document["share"].items()]
    rows.append(["a cycle, unprofiled", *(f"{ms:.1f} ms" for ms in document["cycle_ms_unprofiled"])])
    return table(["", *(f"`{it.split(', ')[0]}`{it[len(it.split(', ')[0]) :]}" for it in document["columns"])], rows)


def tuning(weights: str) -> str:
    """What `falcon tune-tree` predicted and measured with these weights."""
    document = CAMPAIGN["tunings"][weights]
    plain = document["plain"] | {"predicted_tokens_per_cycle": 1.0, "measured_tokens_per_cycle": 1.0}
    trees = {
        f"{it['nodes']} node{'s' * (it['nodes'] > 1)}, {it['passes']} pass{'es' * (it['passes'] > 1)}": it
        for it in document["finalists"]
    }
    dynamic = {key: it for key, it in document["dynamic"].items() if key.startswith("measured")}
    contenders = {"plain decoding": plain, **trees, "dynamic": dynamic, **document["others"], **document["copiers"]}
    rows = []
    for name, it in contenders.items():
        kinds = [f"{kind}_tokens_per_{per}" for per in ("second", "cycle") for kind in ("predicted", "measured")]
        cells = [it.get(kind) for kind in kinds]
        texts = ["–" if cell is None else f"{cell:.{place}f}" for cell, place in zip(cells, (1, 1, 2, 2), strict=True)]
        rows.append([name.removeprefix("k = 2, "), *texts, f"{cells[1] / plain['measured_tokens_per_second']:.2f}x"])
    return table(["", "tokens/s predicted", "measured", "tokens/cycle predicted", "measured", "speedup"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "headline-ratios": headline_ratios,
    **{f"speed-{weights}": lambda weights=weights: speed_table(weights) for weights in ("fp32", "int8", "int4")},
    "engines": engines,
    "cost-by-nodes": lambda: cost("cost_by_nodes", "nodes", ["kernels, weights"]),
    "cost-by-context": lambda: cost("cost_by_context", "contexts", ["nodes"]),
    "quality": quality,
    "profile": profile,
    **{f"tuning-{weights}": lambda weights=weights: tuning(weights) for weights in ("fp32", "int8", "int4")},
}


def filled(text: str) -> str:
    """A page with its regions written afresh.

    Raises:
        KeyError: a region has a name that no table has.
    """
    return REGION.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def main() -> None:
    """Write all pages that have regions."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        if filled(text) != text:
            path.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
