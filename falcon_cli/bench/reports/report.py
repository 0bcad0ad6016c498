"""The results as `report.md`: everything a reader needs to judge the figures, in one file."""

import datetime
from typing import Any

from falcon_cli.bench.figures.document import CategoryFigures, MethodFigures, PeerFigures, ResultsDocument
from falcon_cli.bench.figures.summary import BASELINE
from falcon_cli.bench.reports.wording import (
    ABSENT,
    alike,
    circumstances,
    gigabytes,
    interval,
    percent,
    time_shares,
    times,
    verdict,
)
from falcon_cli.console import markdown_table
from falcon_cli.target.reference.hold import told

_COUNTING = """\
- A speedup is a ratio of decode speeds in one run: total tokens over total seconds, the method's against plain
  autoregression's (`ar`), in the same engine, with the same weights, cache, attention, dtype and prompts, interleaved.
- Tokens are ids emitted after prefill, up to and with the stop token; prefill is timed apart. Repeats are pooled.
- A cycle is one draft and one verification. τ is the drafted tokens accepted per cycle, bonus token excluded; tokens
  per cycle = τ + 1; α = drafted tokens accepted / tokens = 1 − 1/(τ + 1).
- Intervals are 95 %, by bootstrap over whole questions, the same resample for both sides of a ratio.
- Loop-free: an answer stops counting at the first token of a stretch of 32 or more that repeats the text before it
  with a fixed period. The last cycle that begins before it counts whole in time.
- Lossless: a method's ids must be plain autoregression's. Where they part, the text before is scored afresh: if both
  tokens' logits lie within the dtype's rounding of the best, it is a near-tie, else a failure. The margin is the gap
  between the best logit and the worse of the two.
- Reference: plain decoding of the first prompt against `transformers.generate` on the same weights and in the same
  dtype, without penalties; the model's own logits tell a near-tie.
- Peak memory is the most that the whole process held while a method answered (on a GPU: that torch had allocated),
  the weights and caches of all methods of the run included.
- Peers run outside this engine, on the same prompts; their tokens are counted the same way.
"""


def markdown(results: ResultsDocument, command: str, date: datetime.date | None = None) -> str:
    """Write the results document (`--json`) as a Markdown report.

    Args:
        results: the whole document.
        command: the command line that made it.
        date: the day it was made; today if None.

    Returns:
        The text of `report.md`; it shows `speedup.png` from its own folder.
    """
    sections = [
        ("Speed", _speed(results)),
        ("Where the time goes", _time(results["methods"])),
        ("Accepted by depth", _depths(results["methods"])),
        ("By category", _categories(results["methods"])),
        ("Certificate", _certificate(results)),
        ("Machine and settings", _surroundings(results, date or datetime.date.today())),
        ("How things are counted", _COUNTING),
    ]
    head = f"# {results['target']} on {results['dataset']}\n\n```sh\n{command}\n```\n\n{circumstances(results)}\n"
    chart = "\n![Speedup over plain decoding](speedup.png)\n"
    return head + chart + "".join(f"\n## {title}\n\n{body}" for title, body in sections if body)


def _speed(results: ResultsDocument) -> str:
    head = ["method", "speedup", "95 %", "tokens/s", "tokens/cycle", "τ", "α", "lossless"]
    head += ["loop-free: speedup", "95 %", "tokens/s", "tokens/cycle", "α", "in loops"]
    rows = [_speed_row(name, figures, figures, verdict(figures)) for name, figures in results["methods"].items()]
    for name, peer in results["peers"].items():  # their cycles are unknown
        rows.append(_speed_row(name, peer, None, alike(peer, results["prompts"])))
    text = markdown_table(head, rows)
    bound = results["machine"].get("bandwidth_bound_tokens_per_second")
    if bound:
        text += (
            f"\nEvery token reads all weights once: plain decoding comes to **{bound:.1f} tokens/s** at most, at the"
            " speed at which memory was read behind the run.\n"
        )
    return text


def _speed_row(
    name: str, figures: MethodFigures | PeerFigures, method: MethodFigures | None, lossless: str
) -> list[str]:
    free = figures["loop_free"]
    return [
        f"`{name}`",
        times(figures["speedup"]),
        interval(figures["speedup_ci95"]),
        f"{figures['tokens_per_second']:.1f}",
        f"{method['tokens_per_cycle']:.2f}" if method else ABSENT,
        f"{method['accepted_length']:.2f}" if method else ABSENT,
        percent(method["acceptance_rate"]) if method else ABSENT,
        lossless,
        times(free["speedup"]),
        interval(free["speedup_ci95"]),
        f"{free['tokens_per_second']:.1f}",
        f"{method['loop_free']['tokens_per_cycle']:.2f}" if method else ABSENT,
        percent(method["loop_free"]["acceptance_rate"]) if method else ABSENT,
        percent(free["loop_share"]),
    ]


def _time(methods: dict[str, MethodFigures]) -> str:
    head = ["method", "tokens", "cycles", "prefill s", "decode s", "draft", "verify", "other", "peak memory"]
    rows = [
        [
            f"`{name}`",
            f"{figures['tokens']:,}",
            f"{figures['cycles']:,}",
            f"{figures['prefill_seconds']:.2f}",
            f"{figures['decode_seconds']:.2f}",
            *(percent(share) for share in time_shares(figures)),
            gigabytes(figures.get("peak_memory_bytes")),
        ]
        for name, figures in methods.items()
    ]
    return markdown_table(head, rows)


def _depths(methods: dict[str, MethodFigures]) -> str:
    shares = {name: figures["accepted_by_depth"] for name, figures in methods.items() if figures["accepted_by_depth"]}
    deepest = max(map(len, shares.values()), default=0)
    if deepest == 0:
        return ""
    rows = [
        [f"`{name}`", *map(percent, by_depth), *[""] * (deepest - len(by_depth))] for name, by_depth in shares.items()
    ]
    shown = markdown_table(["method", *map(str, range(1, deepest + 1))], rows)
    return f"Share of cycles that accept at least this many drafted tokens.\n\n{shown}"


def _categories(methods: dict[str, MethodFigures]) -> str:
    drafting = {name: figures["by_category"] for name, figures in methods.items() if name != BASELINE}
    categories = list(dict.fromkeys(category for parts in drafting.values() for category in parts))
    if len(categories) < 2:
        return ""
    rows = [
        [category, *(_category_cell(parts.get(category)) for parts in drafting.values())] for category in categories
    ]
    shown = markdown_table(["category", *(f"`{name}`" for name in drafting)], rows)
    return f"Speedup, and tokens per cycle in brackets, over all text.\n\n{shown}"


def _category_cell(part: CategoryFigures | None) -> str:
    return ABSENT if part is None else f"{times(part['speedup'])} ({part['tokens_per_cycle']:.2f})"


def _certificate(results: ResultsDocument) -> str:
    methods, reference = results["methods"], results.get("reference")
    checked = {name: figures["lossless"] for name, figures in methods.items() if "lossless" in figures}
    if not checked:
        return ""
    rows = [
        [f"`{name}`", verdict(methods[name]), f"{lossless['prompts_exact']} of {lossless['prompts']}"]
        for name, lossless in checked.items()
    ]
    partings = [
        [f"`{name}`", str(parting["prompt"]), str(parting["position"]), _margin(parting["margin"])]
        for name, lossless in checked.items()
        for parting in lossless["divergences"]
    ]
    text = f"{told(reference).capitalize()}.\n\n" if reference else ""
    text += markdown_table(["method", "verdict", "prompts exact"], rows)
    if partings:
        text += "\nEvery divergence:\n\n" + markdown_table(["method", "prompt", "position", "margin"], partings)
    return text


def _margin(margin: float | None) -> str:
    return ABSENT if margin is None else f"{margin:.3g}"


def _surroundings(results: ResultsDocument, date: datetime.date) -> str:
    entries = {"date": date.isoformat(), **results["machine"], **results["settings"]}
    return "".join(f"- {key.replace('_', ' ')}: {_value(value)}\n" for key, value in entries.items())


def _value(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
