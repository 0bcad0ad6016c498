"""How the results document's figures are worded, alike on the terminal, in the report and on the chart."""

from falcon_cli.bench.figures.document import MethodFigures, PeerFigures, ResultsDocument

ABSENT = "–"
"""Stands for a figure that does not exist."""


def times(speedup: float | None) -> str:
    """Word a speedup: `1.42x`."""
    return ABSENT if speedup is None else f"{speedup:.2f}x"


def interval(bounds: list[float | None]) -> str:
    """Word a 95 % interval: `[1.35, 1.50]`; empty where it has no width, as the baseline's own."""
    low, high = bounds
    return "" if low is None or high is None or low == high else f"[{low:.2f}, {high:.2f}]"


def percent(share: float) -> str:
    """Word a share of 1: `12 %`."""
    return f"{100 * share:.0f} %"


def gigabytes(count: int | None) -> str:
    """Word a number of bytes: `1.25 GB`."""
    return ABSENT if count is None else f"{count / 1e9:.2f} GB"


def time_shares(figures: MethodFigures) -> tuple[float, float, float]:
    """Split a method's decode time into the shares of draft, verification and everything else; zeros without any."""
    decode = figures["decode_seconds"]
    if not decode:
        return 0.0, 0.0, 0.0
    draft, verify = figures["draft_seconds"] / decode, figures["verify_seconds"] / decode
    return draft, verify, 1 - draft - verify


def verdict(figures: MethodFigures) -> str:
    """Word the certificate, `exact by construction`, `exact`, `3 near-ties` or `FAILED`; absent where there is none."""
    lossless = figures.get("lossless")
    if lossless is None:
        return ABSENT
    if lossless["verdict"] == "exact" and lossless.get("by_construction"):
        return "exact by construction"
    if lossless["verdict"] != "near-ties":
        return lossless["verdict"]
    return _several(len(lossless["divergences"]), "near-tie")


def alike(figures: PeerFigures, prompts: int) -> str:
    """Say how many prompts a peer answered as plain decoding did; absent where nobody compared."""
    equal = figures.get("prompts_equal")
    return ABSENT if equal is None else f"{equal} of {prompts} alike"


def circumstances(results: ResultsDocument) -> str:
    """Say what was run where: target, dtype, device, threads, data set, prompts."""
    return f"{setting(results)} · {questions(results)}"


def setting(results: ResultsDocument) -> str:
    """Say which target was run how: dtype, weights, kernels, device, threads."""
    settings = results["settings"]
    weights = settings.get("weights", settings["dtype"])  # documents of earlier days have none
    held = "" if weights == settings["dtype"] else f", {weights} weights"
    kernels = ", native kernels" if settings.get("kernels") == "native" else ""
    place = f"{settings['device']}, {_several(settings['threads'], 'thread')}"
    return f"{results['target']} · {settings['dtype']}{held}{kernels} on {place}"


def questions(results: ResultsDocument) -> str:
    """Say what was asked: data set and number of prompts."""
    return f"{results['dataset']}, {_several(results['prompts'], 'prompt')}"


def _several(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
