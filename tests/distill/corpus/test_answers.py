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
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.recipe.distill import AnswersRecipe, CorpusRecipe
from falcon_cli.target.batch import suits_batch
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

LENGTHS = (3, 9, 1, 6, 19, 4, 2)  # some longer than the windows of 6 and 7
RECIPE = AnswersRecipe(max_new_tokens=12, batch_size=3)


@pytest.fixture(scope="module", params=["llama-gqa", "qwen2-window", "mistral-window", "fp32", "int8"])
def target(request, tiny_model):
    """On torch's operators, or on the kernels with a kind of weights."""
    stop_ids = frozenset({5, 11, 17, 30})
    if request.param not in ("fp32", "int8"):
        return LoadedTarget("tiny", TargetModel(tiny_model(request.param)), None, stop_ids, "fp64")
    load_kernels()
    model = tiny_model("llama-gqa", dtype=torch.float32)
    return LoadedTarget("tiny", TargetModel(model, native=swap_model(model, request.param)), None, stop_ids, "fp32")


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


def test_a_target_that_padding_misleads_answers_one_by_one(target, prompts, monkeypatch):
    """Told by two prompts: without its mask it would read the padding too."""
    if suits_batch(target.model):
        pytest.skip("the kernels pad nothing")
    asked = [prompt.tokens for prompt in prompts]
    assert answers.reads_padded(target)
    own = target.model.forward.features
    monkeypatch.setattr(
        target.model.forward, "features", lambda *rest, attention_mask=None, **given: own(*rest, **given)
    )
    assert not answers.reads_padded(target)
    replies = list(greedy_answers(target, asked, RECIPE.max_new_tokens, 3))
    assert replies == [(number, plain(target, prompt)) for number, prompt in enumerate(prompts)]


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


def test_a_prompt_that_fills_the_context_has_an_empty_answer(target):
    limit = target.model.context_limit
    replies = dict(greedy_answers(target, [(1,) * limit, (2, 3), (1,) * (limit + 5), (4,)], 3, 2))
    assert [bool(replies[number]) for number in range(4)] == [False, True, False, True]


def test_answers_stop_at_the_context_s_end(tiny_model):
    target = LoadedTarget("tiny", TargetModel(tiny_model(max_position_embeddings=16)), None, frozenset(), "fp64")
    assert sorted(len(reply) for _, reply in greedy_answers(target, [(1,) * 10, (2,) * 4], 99, 2)) == [6, 12]
