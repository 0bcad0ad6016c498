"""Answer files side by side, each against the first: `falcon bench --compare`.

Every figure comes in two ways. Ours (docs/measuring.md): total tokens over total seconds, tokens as the file counts
them. Spec-Bench's (https://github.com/hemingkx/Spec-Bench, evaluation/speed.py): the mean over questions of tokens per
second; for the baseline, but not for a method, a text's tokens are those that tokenising it gives, less one. Only
questions that every file answers count. Figures that do not exist are None.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from falcon_cli.bench.figures.answer_files import FileAnswer, read_answers
from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_tokenizer

Answers = Sequence[FileAnswer]
TokensIn = Callable[[str], int]
"""How many tokens a text is, as Spec-Bench counts."""

TOLERANCE = 0.02
"""Share by which a file's own two ways to tokens per cycle may differ before a warning."""


def compare(files: Sequence[str], target: TargetRecipe) -> dict[str, Any]:
    """Read answer files, the baseline's first, and return the comparison's document; of the target only its tokenizer.

    Raises:
        FalconError: A file cannot be read, no question is in all of them, or there is no such tokenizer.
    """
    read = [read_answers(Path(file).expanduser()) for file in files]
    questions = shared(files, read)
    tokenizer = load_tokenizer(target)

    def tokens_in(text: str) -> int:
        return len(tokenizer(text, verbose=False).input_ids) - 1

    sides = [[answers[question] for question in questions] for answers in read]
    names = short_names(files)
    rows = [
        {"name": name, "file": file, "questions": len(answers), **figures}
        for name, file, answers, figures in zip(names, files, read, figures_of(sides, tokens_in), strict=True)
    ]
    return {
        "schema": 1,
        "target": target.model,
        "questions": len(questions),
        "files": rows,
        "warnings": [
            f"{name}: {warning}"
            for name, side in zip(names, sides, strict=True)
            for warning in warnings_of(side, sides[0])
        ],
    }


def shared(files: Sequence[str], read: Sequence[dict[str, FileAnswer]]) -> list[str]:
    """The questions that are in all files, in the baseline's order.

    Raises:
        FalconError: There are none.
    """
    questions = list(read[0])
    for file, answers in zip(files, read, strict=True):
        questions = [question for question in questions if question in answers]
        if not questions:
            before = files[0] if len(files) == 2 else "the files before it"
            raise FalconError(f"{file} shares no question with {before}: compare answers to the same questions")
    return questions


def short_names(files: Sequence[str]) -> list[str]:
    """File names without folders and endings, with as many folders as it takes to tell them apart."""
    ways = [Path(file.removesuffix(".gz")).with_suffix("").parts for file in files]
    depths = range(1, max(map(len, ways)) + 1)
    spelt = (["/".join(way[-depth:]) for way in ways] for depth in depths)
    return next((names for names in spelt if len(set(names)) == len(set(files))), list(files))


def figures_of(sides: Sequence[Answers], tokens_in: TokensIn) -> list[dict[str, Any]]:
    """Every side's figures, the baseline first; entry q of all sides is the same question."""
    base = sides[0]
    means = [recounted_rate(base, tokens_in), *map(mean_rate, sides[1:])]
    return [_figures(side, base, mean, means[0]) for side, mean in zip(sides, means, strict=True)]


def _figures(side: Answers, base: Answers, mean: float | None, base_mean: float | None) -> dict[str, Any]:
    per_cycle = tokens_per_cycle(side)
    return {
        "tokens": sum(answer.tokens for answer in side),
        "steps": sum(answer.steps for answer in side),
        "seconds": sum(answer.seconds for answer in side),
        "tokens_per_second": rate(side),
        "speedup": _ratio(rate(side), rate(base)),
        "tokens_per_cycle": per_cycle,
        "accepted_length": None if per_cycle is None else per_cycle - 1,
        "spec_bench": {
            "tokens_per_second": mean,
            "speedup": _ratio(mean, base_mean),
            "mean_accepted_tokens": mean_accepted_tokens(side),
        },
        "texts_equal": texts_equal(side, base),
    }


def rate(answers: Answers) -> float | None:
    """Tokens per second: total over total."""
    tokens = sum(answer.tokens for answer in answers)
    return tokens / sum(answer.seconds for answer in answers) if tokens else None


def mean_rate(answers: Answers) -> float | None:
    """Tokens per second as Spec-Bench has a method's: the mean of the questions' rates."""
    return fmean(answer.tokens / answer.seconds for answer in answers) or None


def recounted_rate(answers: Answers, tokens_in: TokensIn) -> float | None:
    """Tokens per second as Spec-Bench has the baseline's: the same mean, the tokens counted afresh from the text."""
    mean = fmean(sum(map(tokens_in, answer.texts)) / answer.seconds for answer in answers)
    return mean if mean > 0 else None


def tokens_per_cycle(answers: Answers) -> float | None:
    """Total tokens over total steps; τ is one less."""
    tokens, steps = sum(answer.tokens for answer in answers), sum(answer.steps for answer in answers)
    return tokens / steps if tokens and steps else None


def mean_accepted_tokens(answers: Answers) -> float | None:
    """Mean of all accept_lengths: tokens per cycle as the file itself counts."""
    lengths = [length for answer in answers for length in answer.accept_lengths or ()]
    return fmean(lengths) if lengths else None


def texts_equal(answers: Answers, base: Answers) -> int:
    """Questions on which two files say the same, but for white space at the ends, which some tools strip."""
    pairs = zip(answers, base, strict=True)
    return sum([text.strip() for text in own.texts] == [text.strip() for text in other.texts] for own, other in pairs)


def warnings_of(answers: Answers, base: Answers) -> list[str]:
    """What a reader of a side's figures must know."""
    found = []
    if not any(answer.tokens for answer in answers):
        found.append("its new_tokens are all 0, so only Spec-Bench's way counts anything")
    if why := contradiction(answers):
        found.append(why)
    if differing := len(answers) - texts_equal(answers, base):
        found.append(f"{differing} of {len(answers)} texts are not the baseline's: lossy, or cut at another length")
    return found


def contradiction(answers: Answers) -> str | None:
    """How a file's accept_lengths contradict its new_tokens and steps, and what was counted or left out, where known.

    accept_lengths 4 3 4, new_tokens 12, steps 3      11 tokens in 3 cycles, or 12: prefill's own is among them
    accept_lengths 3 2 3, new_tokens 11, steps 3      no bonus tokens
    accept_lengths 4 3 4, new_tokens 11, steps 2      steps from 0
    """
    telling = [answer for answer in answers if answer.accept_lengths is not None]
    own, counted = mean_accepted_tokens(telling), tokens_per_cycle(telling)
    if own is None or counted is None or abs(counted - own) <= TOLERANCE * own:
        return None
    return (
        f"accept_lengths tell {own:.2f} tokens per cycle, new_tokens / steps {counted:.2f} "
        f"({_reason(telling) or 'they do not count the same'})"
    )


def _reason(answers: Answers) -> str | None:
    turns = sum(len(answer.texts) for answer in answers)
    tokens, steps = sum(answer.tokens for answer in answers), sum(answer.steps for answer in answers)
    lengths = [length for answer in answers for length in answer.accept_lengths or ()]
    unlisted = tokens - sum(lengths)
    if len(lengths) == steps and 0 < unlisted <= turns:
        return "new_tokens count prefill's own token, accept_lengths do not"
    if len(lengths) == steps and abs(unlisted - steps) <= turns:
        return "accept_lengths leave out the bonus token"
    if len(lengths) == steps + turns:
        return "steps are counted from 0"
    if abs(tokens - steps) <= turns:
        return "steps are tokens, not cycles"
    return None


def _ratio(own: float | None, base: float | None) -> float | None:
    return own / base if own is not None and base else None
