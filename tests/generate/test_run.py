import pytest

from falcon_cli.decode.stats import Completion, Cycle
from falcon_cli.drafters.saved.checkpoint import save_drafter
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.generate.requests import single
from falcon_cli.generate.run import Generator, statistics
from falcon_cli.recipe.schema import GenerateRecipe, TargetRecipe
from falcon_cli.target.load import load_target


@pytest.fixture
def generator(chat_target):
    return lambda **recipe: Generator(GenerateRecipe(TargetRecipe(str(chat_target)), **recipe))


def test_one_generator_answers_many_requests_each_on_its_own(generator):
    asked = [single(text) for text in ("the end", "in", "the end")]
    one = generator(max_new_tokens=20)
    first, second, again = one.answers(asked)
    assert first.completion.ids == again.completion.ids != second.completion.ids
    (plain,) = generator(max_new_tokens=20, method="ar").answers(asked[:1])
    assert plain.completion.ids == first.completion.ids
    assert plain.text == first.text == one.target.tokenizer.decode(first.completion.ids, skip_special_tokens=True)
    assert one.target.model.cache.length == first.completion.prompt_tokens + 19  # the last token is never read


def test_the_listener_hears_the_answers_text(generator):
    heard = []
    (answer,) = generator(max_new_tokens=40, method="lookahead").answers([single("in the end")], heard.append)
    assert "".join(piece.text for piece in heard) == answer.text
    accepted = sum(cycle.accepted for cycle in answer.completion.cycles)
    assert any(piece.drafted for piece in heard) == (accepted > 0)


def test_the_method_is_checked_before_the_target_is_loaded(monkeypatch):
    monkeypatch.setattr("falcon_cli.methods.context.load_target", lambda *_: pytest.fail("loaded"))
    for method in ("sps", "nothing", "pld:length=0"):
        with pytest.raises(UsageError):
            Generator(GenerateRecipe(method=method))


def test_a_draft_model_is_loaded_only_for_a_method_that_drafts_with_it(generator):
    assert generator(draft_model="./nowhere", method="pld")
    with pytest.raises(FalconError, match="no such file or folder"):
        generator(draft_model="./nowhere", method="sps")


def test_falcon_drafts_where_a_drafter_is_given(generator, chat_target, tiny_network, tmp_path):
    plain = generator(method="ar", max_new_tokens=24)
    bare = load_target(TargetRecipe(str(chat_target), kernels="torch")).model
    network = tiny_network(bare.decoder, k=2)
    save_drafter(tmp_path / "drafter", network, None, plain.target, {})
    falcon = generator(drafter=str(tmp_path / "drafter"), method="falcon", max_new_tokens=24)
    asked = [single("the end")]
    (answer,), (expected,) = falcon.answers(asked), plain.answers(asked)
    assert answer.completion.ids == expected.completion.ids
    assert {cycle.nodes for cycle in answer.completion.cycles} & {25}


def test_a_prompt_that_does_not_fit_stops_before_it_is_read(generator):
    answers = generator(max_new_tokens=8).answers([single("hi"), single("long " * 200)])
    assert next(answers).text is not None
    with pytest.raises(FalconError, match="the target's context 512"):
        next(answers)


def test_statistics_count_the_prefills_token_in_no_cycle():
    cycles = [Cycle(3, 5, 0.1, 0.3, 0.5), Cycle(1, 5, 0.1, 0.3, 0.5)]
    figures = statistics(Completion(7, [1, 2, 3, 4, 5], 0.25, cycles))
    assert figures == {
        "prompt_tokens": 7,
        "new_tokens": 5,
        "prefill_seconds": 0.25,
        "decode_seconds": 1.0,
        "tokens_per_second": 4.0,
        "cycles": 2,
        "tokens_per_cycle": 2.0,
        "accepted_length": 1.0,
        "acceptance_rate": 0.5,
    }


def test_statistics_of_a_single_token_are_absent_not_zero():
    figures = statistics(Completion(7, [1], 0.25))
    assert (figures["tokens_per_second"], figures["tokens_per_cycle"], figures["acceptance_rate"]) == (None,) * 3
