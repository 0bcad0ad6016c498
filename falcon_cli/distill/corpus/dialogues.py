"""Reads dialogues from files of several forms, and from the hub.

    ShareGPT's JSON    [{"id": ..., "conversations": [{"from": "human", "value": ...}, ...]}, ...]
    JSON lines         {"messages": [{"role": "user", "content": ...}, ...]}       (`data/messages.py`: all forms)
                       {"conversations": [...]}
                       {"id": ..., "prompt_ids": [...], "response_ids": [...]}     token ids of the target's tokenizer
    Parquet, hub       rows with one of the same columns

A file that is cut off within a record gives its complete records, and a warning.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from falcon_cli.console import warn
from falcon_cli.data.messages import Messages, messages_of
from falcon_cli.data.sets import gsm8k, math, mbpp, sharegpt
from falcon_cli.errors import FalconError, first_line
from falcon_cli.recipe.distill import CorpusRecipe

CORPORA: dict[str, Callable[[], Iterator[tuple[str, Messages]]]] = {
    "sharegpt": lambda: sharegpt.read_conversations(sharegpt.find()),
    "gsm8k-train": gsm8k.read_corpus,
    "math": math.read_corpus,
    "mbpp": mbpp.read_corpus,
}
"""Name of a corpus → its dialogues, each with its id."""

_FORMS = '"messages", "conversations", or "prompt_ids" with "response_ids"'


@dataclass(frozen=True)
class Dialogue:
    """One dialogue: messages, or a prompt and its answer in token ids."""

    id: str
    talk: Messages = field(default_factory=lambda: Messages(()))
    prompt_ids: tuple[int, ...] = ()
    response_ids: tuple[int, ...] = ()


def read_dialogues(recipe: CorpusRecipe) -> Iterator[Dialogue]:
    """All dialogues of all sources, one by one; a repeated id is numbered: `id#2`.

    Raises:
        FalconError: A source cannot be found or read, or a record has none of the forms (the message names its line).
    """
    seen: Counter[str] = Counter()
    for source in recipe.sources:
        for dialogue in _source(source, recipe):
            seen[dialogue.id] += 1
            times = seen[dialogue.id]
            yield dialogue if times == 1 else replace(dialogue, id=f"{dialogue.id}#{times}")


def _source(source: str, recipe: CorpusRecipe) -> Iterator[Dialogue]:
    path = Path(os.path.expanduser(source))
    if source in CORPORA:
        yield from _named(CORPORA[source]())
    elif path.is_file():
        yield from _file(path)
    elif source.startswith(("./", "../", "/", "~")) or path.suffix in (".json", ".jsonl", ".parquet", ".gz"):
        raise FalconError(f"no such file: {source}")
    else:
        yield from _rows(source, source, {"split": recipe.split, "revision": recipe.revision})


def _file(path: Path) -> Iterator[Dialogue]:
    kinds = path.name.split(".")[1:]
    if "parquet" in kinds:
        yield from _rows(str(path), "parquet", {"data_files": str(path), "split": "train"})
    elif "jsonl" in kinds:
        yield from _jsonl(path)
    elif kinds[-1:] == ["json"]:
        yield from _named(sharegpt.read_conversations(path))
    else:
        raise FalconError(
            f"{path}: a corpus is a .json file in ShareGPT's form, a .jsonl or .parquet file (.gz allowed)"
        )


def _named(dialogues: Iterator[tuple[str, Messages]]) -> Iterator[Dialogue]:
    for name, talk in dialogues:
        yield Dialogue(name.replace("/", "_"), talk)


def _rows(name: str, kind: str, options: dict[str, Any]) -> Iterator[Dialogue]:
    """The rows of a hub data set or a Parquet file, streamed by `datasets`."""
    from datasets import load_dataset

    try:
        rows = iter(load_dataset(kind, streaming=True, **options))
    except Exception as error:  # not found, unreachable, no such split: one message covers them all
        raise FalconError(
            f"corpus {name} cannot be loaded ({first_line(error)}); give a local file, or check name and split"
        ) from error
    for number in count(1):
        try:
            record = next(rows)
        except StopIteration:
            return
        except Exception as error:  # damaged in the middle, or the connection is gone
            raise FalconError(
                f"corpus {name} cannot be read beyond row {number - 1} ({first_line(error)}); fetch it again, or set "
                "corpus.limit"
            ) from error
        yield _dialogue(record, name, number)


def _jsonl(path: Path) -> Iterator[Dialogue]:
    """One dialogue per line; the last line may be cut short."""
    broken: FalconError | None = None
    for number, line in _lines(path):
        if broken is not None:
            raise broken
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            broken = FalconError(f"{path}:{number}: not JSON ({error})")
            continue
        yield _dialogue(record, str(path), number)
    if broken is not None:
        warn(f"{path.name} is cut off in its last line: the complete ones are used")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield from enumerate(stream, start=1)
    except (EOFError, zlib.error):
        warn(f"{path.name} is cut off: its complete lines are used")
    except OSError as error:
        raise FalconError(f"cannot read {path}: {error.strerror or error}") from error


def _dialogue(record: Any, source: str, number: int) -> Dialogue:
    where = f"{source}:{number}"
    if not isinstance(record, dict):
        raise FalconError(f"{where}: a dialogue is an object with {_FORMS}")
    given = record.get("id")
    name = str(f"{Path(source).name}-{number}" if given is None else given)
    if "prompt_ids" in record and "response_ids" in record:
        return Dialogue(name, Messages(()), _ids(record["prompt_ids"], where), _ids(record["response_ids"], where))
    try:
        talk = messages_of(record)
    except ValueError as error:
        raise FalconError(f"{where}: {error}") from error
    if talk is not None:
        return Dialogue(name.replace("/", "_"), talk)  # a slash marks a turn: HumanEval/12 is no turn of "HumanEval"
    fields = ", ".join(f'"{field}"' for field in list(record)[:8]) or "none"
    raise FalconError(f"{where}: it has the fields {fields}; a dialogue needs {_FORMS}")


def _ids(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(token, int) and token >= 0 for token in value):
        raise FalconError(f'{where}: "prompt_ids" and "response_ids" must be lists of token ids')
    return tuple(value)
