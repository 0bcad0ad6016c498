"""The target's answers: the ids of plain decoding, whatever the batch; kept after a kill."""

import json

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.corpus import answers
from falcon_cli.distill.corpus.answers import greedy_answers, read_answers, target_answers
from falcon_cli.distill.corpus.dialogues import read_dialogues
from falcon_cli.distill.corpus.sample import CorpusPrompt
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.recipe.distill import AnswersRecipe, CorpusRecipe
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

LENGTHS = (3, 9, 1, 6, 19, 4, 2)  # some longer than the windows of 6 and 7
RECIPE = AnswersRecipe(max_new_tokens=12, batch_size=3)


@pytest.fixture(scope="module", params=["llama-gqa", "qwen2-window", "mistral-window"])
def target(request, tiny_model):
    return LoadedTarget("tiny", TargetModel(tiny_model(request.param)), None, frozenset({5, 11, 17, 30}), "fp64")


@pytest.fixture(scope="module")
def prompts():
    draw = torch.Generator().manual_seed(4)
    return [
        CorpusPrompt(f"p{n}", tuple(torch.randint(48, (size,), generator=draw).tolist()))
        for n, size in enumerate(LENGTHS)
    ]


def plain(target, prompt):
    drafter = Autoregressive(target.model.device)
    return complete(target.model, drafter, list(prompt.tokens), Stop(target.stop_ids, RECIPE.max_new_tokens)).ids


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 20])
def test_a_batch_answers_as_plain_decoding_does(target, prompts, rows):
    """Some end early, so others take their places on the way."""
    asked = [prompt.tokens for prompt in prompts]
    replies = dict(greedy_answers(target, asked, RECIPE.max_new_tokens, rows))
    assert [replies[number] for number in range(len(prompts))] == [plain(target, prompt) for prompt in prompts]
    assert len({len(reply) for reply in replies.values()}) > 1


def test_free_rows_are_filled_at_once(target, prompts, monkeypatch):
    """Never fewer rows than there could be, and no position that is padding in every row."""
    seen = []

    def advanced(*given):
        seen.append(given[-1].seen_BS)
        advance(*given)

    monkeypatch.setattr(answers, "reads_padded", lambda target: True)
    advance = answers._advance
    monkeypatch.setattr(answers, "_advance", advanced)
    asked = [prompt.tokens for prompt in prompts] * 3
    assert len(list(greedy_answers(target, asked, RECIPE.max_new_tokens, rows=2))) == len(asked)
    assert [len(seen_BS) for seen_BS in seen[:-12]] == [2] * (len(seen) - 12)
    assert all(bool(seen_BS[:, 0].any()) for seen_BS in seen)


def test_a_target_that_padding_misleads_answers_one_by_one(target, prompts, monkeypatch):
    """Told by two prompts: without its mask it would read the padding too."""
    asked = [prompt.tokens for prompt in prompts]
    assert answers.reads_padded(target)
    own = target.model.forward.features
    monkeypatch.setattr(
        target.model.forward, "features", lambda *rest, attention_mask=None, **given: own(*rest, **given)
    )
    assert not answers.reads_padded(target)
    replies = list(greedy_answers(target, asked, RECIPE.max_new_tokens, 3))
    assert replies == [(number, plain(target, prompt)) for number, prompt in enumerate(prompts)]


def test_a_target_whose_cache_cannot_be_cut_answers_one_by_one(target, monkeypatch):
    def cut(batch, places):
        raise AttributeError("no keys")

    monkeypatch.setattr(answers, "_keep", cut)
    assert not answers.reads_padded(target)


def test_answers_are_written_and_read_back(target, prompts, tmp_path):
    path = tmp_path / "answers.jsonl"
    target_answers(target, prompts, RECIPE, path)
    replies = read_answers(path, prompts)
    assert replies == {prompt.id: tuple(plain(target, prompt)) for prompt in prompts}
    target_answers(target, prompts, RECIPE, path)
    assert len(path.read_text().splitlines()) == len(prompts)  # nothing was asked again


def test_after_a_kill_only_what_is_missing_is_asked(target, prompts, tmp_path):
    path = tmp_path / "answers.jsonl"
    target_answers(target, prompts, RECIPE, path)
    whole = read_answers(path, prompts)
    path.write_text(path.read_text()[:-25])
    assert len(read_answers(path, prompts)) == len(prompts) - 1
    target_answers(target, prompts, RECIPE, path)
    assert read_answers(path, prompts) == whole
    assert [dialogue.id for dialogue in read_dialogues(CorpusRecipe(sources=(str(path),)))] == [
        json.loads(line)["id"] for line in path.read_text().splitlines()
    ]
    assert len(path.read_text().splitlines()) == len(prompts)  # the half line is gone: the file is a corpus too


def test_an_answer_to_another_prompt_of_the_same_name_is_not_used(target, prompts, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"id": "p0", "prompt_ids": [1], "response_ids": [2]}) + "\n")
    assert read_answers(path, prompts) == {}


def test_several_processes_share_the_prompts(target, prompts, tmp_path):
    path = tmp_path / "answers.jsonl"
    for rank in range(2):
        target_answers(target, prompts, RECIPE, path, rank, world=2)
    assert len(read_answers(path, prompts)) == len(prompts)


def test_answers_stop_at_the_context_s_end(tiny_model):
    target = LoadedTarget("tiny", TargetModel(tiny_model(max_position_embeddings=16)), None, frozenset(), "fp64")
    assert sorted(len(reply) for _, reply in greedy_answers(target, [(1,) * 10, (2,) * 4], 99, 2)) == [6, 12]
