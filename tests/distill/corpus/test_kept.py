"""The texts of a run come back as they were read."""

from collections import Counter

import pytest

from falcon_cli.distill.corpus.kept import keep, kept
from falcon_cli.distill.corpus.sample import CorpusPrompt, Sample
from falcon_cli.distill.corpus.tally import Tally
from falcon_cli.errors import FalconError

TALLY = Tally(5, 2, Counter({"doubled": 3}))
SAMPLES = [Sample("a", (1, 2, 3, 4), (False, True, True, False)), Sample("é/0", (7,), (True,))]
PROMPTS = [CorpusPrompt("a/0", (1, 2)), CorpusPrompt("a/1", (1, 2, 3))]


@pytest.mark.parametrize(("texts", "kind"), [(SAMPLES, Sample), (PROMPTS, CorpusPrompt), ([], Sample)])
def test_what_was_kept_comes_back(tmp_path, texts, kind):
    path = tmp_path / "texts.jsonl"
    assert kept(path, kind.from_json) is None
    keep(path, TALLY, texts)
    assert kept(path, kind.from_json) == (TALLY, texts)


@pytest.mark.parametrize("damage", ["", "{}\n", "no json\n", '{"tally": 5}\n'])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "texts.jsonl"
    path.write_text(damage)
    with pytest.raises(FalconError, match=r"texts\.jsonl is damaged: name another --out"):
        kept(path, Sample.from_json)


def test_prompts_are_no_samples(tmp_path):
    keep(tmp_path / "texts.jsonl", TALLY, PROMPTS)
    with pytest.raises(FalconError, match="damaged"):
        kept(tmp_path / "texts.jsonl", Sample.from_json)
