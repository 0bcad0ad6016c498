"""A reader of dialogues, on the byte tokenizer."""

import json

import pytest

from falcon_cli.data.chat import ChatTemplate
from falcon_cli.distill.corpus.contamination import BenchPrompts
from falcon_cli.distill.corpus.reader import CorpusReader
from falcon_cli.recipe.distill import CorpusRecipe

NOBODY = BenchPrompts.from_turns([])


@pytest.fixture
def reader(tmp_path, byte_tokenizer):
    """A reader of these dialogues: `reader([messages, ...], max_tokens=20)`."""

    def build(dialogues, bench=NOBODY, tokenizer=byte_tokenizer, **recipe):
        path = tmp_path / "corpus.jsonl"
        records = [
            dialogue if isinstance(dialogue, dict) else {"id": f"d{n}", "messages": dialogue}
            for n, dialogue in enumerate(dialogues)
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        made = CorpusRecipe(**{"min_answer_tokens": 1, **recipe, "sources": (str(path),)})
        stop_ids = frozenset({byte_tokenizer.eos_token_id})
        return CorpusReader(made, ChatTemplate.of(made, tokenizer), stop_ids, bench)

    return build
