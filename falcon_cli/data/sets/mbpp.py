"""MBPP: 500 small programming tasks (Austin et al. 2021, arXiv 2108.07732; CC-BY-4.0), solved in 17 languages.

A corpus and no benchmark: every one of its test tasks is there.
"""

from __future__ import annotations

from collections.abc import Iterator

from falcon_cli.data.messages import Messages
from falcon_cli.data.prompts import text_of
from falcon_cli.data.sets import olmo


def read_corpus() -> Iterator[tuple[str, Messages]]:
    """Yield each task in each language as a dialogue, with its id; the answer is one code block."""
    for language, spoken in olmo.LANGUAGES.items():
        for record in olmo.records(f"mbpp-{language}"):
            asked = f"{text_of(record, 'text').strip()} Answer in {spoken}."
            code = text_of(record, "code").replace("\r\n", "\n").strip("\n")
            answered = f"```{language}\n{code}\n```"
            yield (
                f"mbpp-{language}-{record['task_id']}",
                Messages(({"role": "user", "content": asked}, {"role": "assistant", "content": answered})),
            )
