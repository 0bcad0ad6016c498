"""Dialogues become texts: the template's tokens, answers masked, cuts and filters counted."""

from collections import Counter

import pytest

from falcon_cli.data.chat import ChatTemplate
from falcon_cli.distill.corpus.contamination import BenchPrompts
from falcon_cli.distill.corpus.sample import CorpusPrompt, Sample
from falcon_cli.distill.corpus.tally import Tally
from falcon_cli.errors import FalconError

ASKED = "Name three colours, please."
NOBODY = BenchPrompts.from_turns([])


def talk(*texts):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def test_a_text_is_what_the_target_reads_in_a_conversation(reader, byte_tokenizer):
    messages = talk(ASKED, "red, green, blue", "One more?", "the sky")
    (sample,) = reader([messages]).texts()
    second = ChatTemplate(byte_tokenizer).prompt(messages[:3])
    assert list(sample.tokens[: len(second)]) == second
    end = byte_tokenizer.eos_token_id
    assert sample.tokens[-1] == end
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    assert byte_tokenizer.decode(said) == "red, green, blue<|im_end|>the sky<|im_end|>"
    newline = sample.tokens[sample.tokens.index(end, len(ChatTemplate(byte_tokenizer).prompt(messages[:1]))) + 1]
    assert byte_tokenizer.decode([newline]) == "\n"  # the template's, after the end of turn: not said
    assert sample.answer_tokens == len(said)


def test_an_assistant_s_first_message_is_dropped(reader):
    plain, begun = reader(
        [talk(ASKED, "red"), [*talk("x", "hello there")[1:], *talk("Name two, please.", "red")]]
    ).texts()
    assert begun.answer_tokens == plain.answer_tokens


@pytest.mark.parametrize(
    ("dialogue", "recipe", "reason"),
    [
        (talk(ASKED, "  "), {}, "at a turn without words"),
        (talk("", "red"), {}, "without a user's word"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "at a part of the type image_url"),
        (talk(ASKED, "red \ud83d"), {}, "with broken characters"),
        (talk("Назови три цвета", "red"), {"ascii_share": 0.9}, "not in ASCII"),
        (talk(ASKED, "red"), {"min_answer_tokens": 50}, "with too short an answer"),
        (talk(ASKED * 9, "red"), {"max_prompt_tokens": 40}, "at a prompt that is too long"),
    ],
)
def test_what_is_left_out_is_counted_by_its_reason(reader, dialogue, recipe, reason):
    corpus = reader([dialogue], **recipe)
    assert list(corpus.texts()) == []
    assert corpus.tally == Tally(1, 0, Counter({reason: 1}))


def test_a_turn_in_which_the_user_says_nothing_ends_the_text(reader, byte_tokenizer):
    corpus = reader([talk(ASKED, "red", " ", "green")])
    (sample,) = corpus.texts()
    assert byte_tokenizer.decode(sample.tokens).endswith("red<|im_end|>")
    assert corpus.tally == Tally(1, 1, cut=Counter({"at a turn without words": 1}))


def test_white_space_around_an_answer_does_not_end_the_text(reader, byte_tokenizer):
    corpus = reader([talk(ASKED, " red \n", "More?", "green")])
    (sample,) = corpus.texts()
    assert byte_tokenizer.decode(sample.tokens).endswith("green<|im_end|>")
    assert corpus.tally == Tally(1, 1)


def test_doubled_dialogues_and_benchmark_prompts_are_left_out(reader):
    bench = BenchPrompts.from_turns(["What is the capital of France?"])
    corpus = reader([talk(ASKED, "red"), talk(ASKED, "green"), talk("what is the capital of france?", "Paris")], bench)
    assert [sample.id for sample in corpus.texts()] == ["d0"]
    assert corpus.tally == Tally(3, 1, Counter({"doubled": 1, "with a benchmark's prompt": 1}))


def test_texts_are_cut_at_max_tokens(reader):
    corpus = reader([talk(ASKED, "red, green, blue")], max_tokens=60)
    (sample,) = corpus.texts()
    assert len(sample) == 60
    assert corpus.tally.cut == Counter({"at max_tokens": 1})


def test_a_looping_answer_ends_where_the_loop_begins_and_ends_the_text(reader):
    dialogue = talk(ASKED, "so: " + "a b. " * 40, "And?", "more")
    (cut,) = reader([dialogue]).texts()
    (whole,) = reader([dialogue], drop_loops=False).texts()
    assert cut.tokens == whole.tokens[: len(cut)]
    assert cut.answer_tokens < 20 < whole.answer_tokens


def test_only_the_first_turns_are_taken_where_asked(reader, byte_tokenizer):
    dialogue = talk(ASKED, "red", "More?", "green", "More?", "blue")
    corpus = reader([dialogue], turns=2)
    (sample,) = corpus.texts()
    assert "green" in byte_tokenizer.decode(sample.tokens)
    assert "blue" not in byte_tokenizer.decode(sample.tokens)
    assert corpus.tally == Tally(1, 1, cut=Counter({"after corpus.turns answers": 1}))


def test_a_last_question_that_nobody_answers_is_counted(reader):
    corpus = reader([talk(ASKED, "red", "More?")])
    assert len(list(corpus.texts())) == 1
    assert corpus.tally == Tally(1, 1, cut=Counter({"at a question without an answer": 1}))


def test_the_limit_counts_dialogues_that_are_taken(reader):
    corpus = reader([talk(f"{ASKED} {n}", "red") for n in range(9)], limit=4)
    assert len(list(corpus.texts())) == 4


def test_those_to_skip_come_before_those_to_take(reader):
    corpus = reader([talk(f"{ASKED} {n}", "red") for n in range(9)], skip=3, limit=4)
    assert [sample.id for sample in corpus.texts()] == ["d3", "d4", "d5", "d6"]
    assert corpus.tally == Tally(7, 4, Counter({"skipped": 3}))


def test_only_dialogues_about_something_are_taken(reader):
    dialogues = [talk("How do I sort?", "In Python: sorted()"), talk(ASKED, "red"), talk("Why PYTHON?", "why not")]
    corpus = reader(dialogues, match="python|calculat", skip=1)
    assert [sample.id for sample in corpus.texts()] == ["d2"]
    assert corpus.tally == Tally(3, 1, Counter({"about something else": 1, "skipped": 1}))


def test_token_ids_are_taken_as_they_are(reader):
    (sample,) = reader([{"id": "x", "prompt_ids": [5, 6, 7], "response_ids": [8, 9]}]).texts()
    assert sample == Sample("x", (5, 6, 7, 8, 9), (False, False, False, True, True))


def test_token_ids_pass_the_same_filters(reader, byte_tokenizer):
    short = ChatTemplate(byte_tokenizer).prompt(talk("Why?"))
    records = [{"id": name, "prompt_ids": ids, "response_ids": [3]} for name, ids in (("a", short), ("b", [5] * 60))]
    corpus = reader(records, BenchPrompts.from_turns(["why?"]), max_prompt_tokens=50)
    assert list(corpus.texts()) == list(corpus.prompts()) == []
    reasons = Counter({"with a benchmark's prompt": 2, "with a prompt that is too long": 2})
    assert corpus.tally == Tally(4, 0, reasons)


def test_token_ids_of_another_tokenizer_are_refused(reader):
    with pytest.raises(FalconError, match=r"dialogue x has the token id 9999, the target's tokenizer only"):
        list(reader([{"id": "x", "prompt_ids": [1], "response_ids": [9999]}]).texts())


def test_an_answer_that_is_missing_is_named(reader):
    with pytest.raises(FalconError, match="answer to d/0 is missing"):
        list(reader([]).answered([CorpusPrompt("d/0", (1, 2))], {}))


def test_prompts_are_those_before_each_answer(reader, byte_tokenizer):
    messages = talk(ASKED, "red", "More?", "green")
    first, second = reader([messages]).prompts()
    assert first == CorpusPrompt("d0/0", tuple(ChatTemplate(byte_tokenizer).prompt(messages[:1])))
    assert second == CorpusPrompt("d0/1", tuple(ChatTemplate(byte_tokenizer).prompt(messages[:3])))


def test_the_target_s_answers_become_texts(reader):
    corpus = reader([])
    (sample,) = corpus.answered([CorpusPrompt("d/0", (1, 2))], {"d/0": (3, 4, 5)})
    assert sample == Sample("d/0", (1, 2, 3, 4, 5), (False, False, True, True, True))


def test_every_dialogue_is_used_or_left_out_for_a_reason(reader):
    dialogues = [
        *(talk(f"{ASKED} {n}", "red") for n in range(3)),
        talk(f"{ASKED} 0", "red"),
        talk("", "red"),
        talk(f"{ASKED} 5", " "),
        talk(ASKED),
        [{"role": "tool", "content": "?"}, *talk(ASKED, "red")],
        [{"role": "user", "content": [{"type": "image_url"}]}],
    ]
    corpus = reader(dialogues)
    texts = list(corpus.texts())
    assert corpus.tally.read == len(dialogues) == corpus.tally.used + corpus.tally.left_out.total()
    assert corpus.tally.used == len(texts) == 3
