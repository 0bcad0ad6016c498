"""Validation: the best trees run for real, interleaved, on prompts that they were not fitted to."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from falcon_cli.console import warn
from falcon_cli.core import Drafter
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.errors import FalconError
from falcon_cli.sources import append_line, disk_errors, whole_lines
from falcon_cli.target.load import LoadedTarget
from falcon_cli.tune_tree.measure.texts import CalibrationPrompt

PLAIN = "plain decoding"
_WARM_TOKENS = 12
_TRUSTED = 1.2
"""By how much plain decoding may run faster or slower than predicted."""


@dataclass(frozen=True)
class ValidationRun:
    """One contender's answer to one prompt."""

    contender: str
    prompt: str
    tokens: int
    """Tokens after the prefill's."""
    cycles: int
    seconds: float
    ids: tuple[int, ...]


@dataclass(frozen=True)
class MeasuredSpeed:
    """One contender over all prompts."""

    tokens_per_second: float
    tokens_per_cycle: float
    speedup: float
    """Over plain decoding."""
    alike: int
    """Answers that equal plain decoding's, token by token."""
    prompts: int


def validate(
    contenders: Mapping[str, Drafter],
    prompts: Sequence[CalibrationPrompt],
    target: LoadedTarget,
    limit: int,
    seed: int,
    log: Path,
    tick: Callable[[], None],
) -> dict[str, MeasuredSpeed]:
    """Let every contender answer every prompt, in an order drawn for each prompt.

    Args:
        contenders: Name → drafter; plain decoding must be one of them.
        prompts: At least one.
        target: The target.
        limit: Most tokens of an answer.
        seed: For the order.
        log: The runs so far; prompts that all contenders have answered are not asked again.
        tick: Called after each prompt.
    """
    entries = map(json.loads, whole_lines(log))
    known = [ValidationRun(**{**entry, "ids": tuple(entry["ids"])}) for entry in entries]
    runs: list[ValidationRun] = []
    warm = False
    for prompt in prompts:
        done = [run for run in known if run.prompt == prompt.id and run.contender in contenders]
        if {run.contender for run in done} != set(contenders):
            if not warm:
                for drafter in contenders.values():
                    complete(target.model, drafter, list(prompt.ids), Stop(target.stop_ids, min(_WARM_TOKENS, limit)))
                warm = True
            done = _all_answers(contenders, prompt, target, limit, seed)
            with disk_errors(log.parent):
                for run in done:
                    append_line(log, json.dumps(asdict(run)))
        runs += done
        tick()
    return speeds_of(runs)


def speeds_of(runs: Sequence[ValidationRun]) -> dict[str, MeasuredSpeed]:
    """Contender → its speed over all prompts.

    Raises:
        FalconError: There is nothing to add up.
    """
    if not runs:
        raise FalconError("the target ends every answer with its first token: run on more prompts or other ones")
    by_name: dict[str, dict[str, ValidationRun]] = {}
    for run in runs:
        by_name.setdefault(run.contender, {})[run.prompt] = run
    rates = {
        name: sum(run.tokens for run in of_name.values()) / sum(run.seconds for run in of_name.values())
        for name, of_name in by_name.items()
    }
    plain = by_name[PLAIN]
    return {
        name: MeasuredSpeed(
            tokens_per_second=rates[name],
            tokens_per_cycle=sum(run.tokens for run in of_name.values()) / sum(run.cycles for run in of_name.values()),
            speedup=rates[name] / rates[PLAIN],
            alike=sum(run.ids == plain[prompt].ids for prompt, run in of_name.items()),
            prompts=len(of_name),
        )
        for name, of_name in by_name.items()
    }


def warn_where_costs_are_off(measured: MeasuredSpeed, predicted: float) -> None:
    """Warn where plain decoding ran at another speed than the cost table says: then its predictions are off too.

    Args:
        measured: Plain decoding's runs.
        predicted: Its tokens a second by the cost table.
    """
    ratio = measured.tokens_per_second / predicted
    if not 1 / _TRUSTED < ratio < _TRUSTED:
        warn(
            f"plain decoding ran at {ratio:.2f} times the speed that the costs predict: the machine was busy then or "
            "is now; run again with --cost measure"
        )


def _all_answers(
    contenders: Mapping[str, Drafter], prompt: CalibrationPrompt, target: LoadedTarget, limit: int, seed: int
) -> list[ValidationRun]:
    order = list(contenders)
    Random(f"{seed}/{prompt.id}").shuffle(order)
    runs = []
    for name in order:
        answer = complete(target.model, contenders[name], list(prompt.ids), Stop(target.stop_ids, limit))
        if answer.cycles:
            seconds = round(answer.decode_seconds, 6)
            runs.append(
                ValidationRun(name, prompt.id, answer.decode_tokens, len(answer.cycles), seconds, tuple(answer.ids))
            )
    return runs
