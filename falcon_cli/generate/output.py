"""How answers leave: as text when they are whole, as text while they come, or as JSON lines."""

from collections.abc import Callable
from dataclasses import dataclass

from falcon_cli.console import emit, emit_json, say, stdout_is_terminal
from falcon_cli.generate.run import Answer, statistics
from falcon_cli.generate.text import Piece

GREEN, RESET = "\x1b[32m", "\x1b[0m"


@dataclass(frozen=True)
class Output:
    """What to do with each piece of text, and with each whole answer."""

    piece: Callable[[Piece], None]
    answer: Callable[[Answer], None]


def pick_output(method: str, as_json: bool, stream: bool | None, show_draft: bool) -> Output:
    """The output a person or a program wants.

    Args:
        method: Shown with the statistics of a streamed answer.
        as_json: One JSON object a line, whole answers.
        stream: Text as it comes; None streams on a terminal.
        show_draft: Colour drafted text (streams).
    """
    if as_json:
        return Output(_ignore, lambda answer: emit_json(answer.to_json()))
    if show_draft:
        return Output(_coloured, lambda answer: _end_of_stream(method, answer))
    if stream or (stream is None and stdout_is_terminal()):
        return Output(lambda piece: emit(piece.text, end=""), lambda answer: _end_of_stream(method, answer))
    return Output(_ignore, lambda answer: emit(answer.text))


def _ignore(piece: Piece) -> None:
    """Wait for the whole answer."""


def _coloured(piece: Piece) -> None:
    emit(f"{GREEN}{piece.text}{RESET}" if piece.drafted else piece.text, end="")


def _end_of_stream(method: str, answer: Answer) -> None:
    emit("")
    figures = statistics(answer.completion)
    if figures["tokens_per_second"] is not None:
        say(
            f"{figures['new_tokens']} tokens, {figures['tokens_per_second']:.1f} tokens/s, "
            f"{figures['tokens_per_cycle']:.2f} tokens per cycle, "
            f"{figures['acceptance_rate']:.0%} drafted ({method}{_choices(answer)})"
        )


def _choices(answer: Answer) -> str:
    if answer.chosen is None:
        return ""
    return f": {answer.chosen['copy']} copies, {answer.chosen['tree']} trees, {answer.chosen['none']} without a draft"
