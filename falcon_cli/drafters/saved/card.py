"""The model card of a drafter: its folder's README.md, for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from falcon_cli.drafters.saved.trained import TRAINED

_LSTM = {
    "time": "a two-layer LSTM along the text",
    "position": "a two-layer LSTM, each position by itself",
    "linear": "one linear layer",
}


def card(about: Mapping[str, Any]) -> str:
    """Write the card from a drafter's `config.json`; what that does not tell is left out."""
    training, method = about["training"], TRAINED[about["method"]]
    vocabulary = about["draft_vocab_size"] or about["vocab_size"]
    lines = [
        f"# {method.card_title} for {about['target']}",
        "",
        f"Drafts {about['k']} {'tokens' if about['k'] > 1 else 'token'} a pass for speculative decoding with `falcon`. "
        "It works with this target only, and whatever it drafts, the output is the target's own.",
        "",
        "```sh",
        f'falcon generate --target {about["target"]} --drafter . --method {about["method"]} "Why is the sky blue?"',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| method | {about['method']}, k = {about['k']} |",
        *_form(about["network"]),
        f"| tokens that may be drafted | {vocabulary:,} of {about['vocab_size']:,} |",
        f"| hidden size | {about['hidden_size']} |",
        *_made(training),
        *_accuracy(training),
        "",
        "The weights were learned from the target's features: the licence of the target may bind them too. Read it "
        "before you pass them on.",
        "",
        f"Method: {method.citation}.",
    ]
    return "\n".join(lines) + "\n"


def _form(network: Mapping[str, Any]) -> list[str]:
    """Falcon's and EAGLE's network has more to tell than its k."""
    if "mixer" not in network:
        return []
    ends = "normalised" if network["normalise"] else "raw, as in the paper"
    return [f"| mixer | {_LSTM[network['mixer']]} |", f"| inputs and output | {ends} |"]


def _made(training: Mapping[str, Any]) -> list[str]:
    """How it was trained: each short fact as a row, then the command."""
    apart = ("command", "accuracy")
    facts = {key: value for key, value in training.items() if key not in apart and _short(value)}
    rows = [f"| {key.replace('_', ' ')} | {_shown(value)} |" for key, value in facts.items()]
    if "command" not in training:
        return rows
    return [*rows, "", "Made by", "", "```sh", str(training["command"]), "```"]


def _accuracy(training: Mapping[str, Any]) -> list[str]:
    """Held-out accuracies, one a slot: [0.5, 0.4], or by name: {"slot 1": 0.5}."""
    accuracy = training.get("accuracy")
    if not accuracy:
        return []
    named = accuracy if isinstance(accuracy, Mapping) else {f"slot {s}": share for s, share in enumerate(accuracy, 1)}
    rows = [f"| {name} | {share:.1%} |" for name, share in named.items()]
    return ["", "Held-out tokens it drafts right at the first choice:", "", "| | |", "|---|---|", *rows]


def _short(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(isinstance(one, (str, int, float)) for one in value)
    return isinstance(value, (str, int, float))


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
