"""Dialogues become texts: the template's tokens, answers masked, cuts and filters counted."""

import json
from collections import Counter

import pytest

from falcon_cli.data.chat import ChatTemplate
from falcon_cli.distill.corpus.contamination import BenchPrompts
from falcon_cli.distill.corpus.reader import CorpusPrompt, CorpusReader
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.corpus.tally import Tally
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CorpusRecipe

ASKED = "Name three colours, please."
NOBODY = BenchPrompts.from_turns([])


def talk(*texts):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


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
    (sample,) = reader([dialogue], turns=2).texts()
    assert "green" in byte_tokenizer.decode(sample.tokens)
    assert "blue" not in byte_tokenizer.decode(sample.tokens)


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


def test_answers_that_the_template_renders_differently_are_taken_from_it(reader, byte_tokenizer):
    """LLaMA-2's template puts a space before the end of turn."""
    messages = talk(ASKED, "red, green", "One more?", "blue")
    (sample,) = reader([messages], template="llama-2").texts()
    second = ChatTemplate(byte_tokenizer, "llama-2").prompt(messages[:3])
    assert list(sample.tokens[: len(second)]) == second
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    assert byte_tokenizer.decode(said) == " red, green <|im_end|> blue <|im_end|>"


CALLING = [
    {"from": "human", "value": ASKED},
    {"from": "function_call", "value": '{"name": "colours", "arguments": {"count": 3}}'},
    {"from": "observation", "value": "red, green, blue"},
    {"from": "gpt", "value": "These three."},
]
"""An answer that nobody understands without what the function returned."""


def test_an_answer_is_not_taken_without_its_evidence(reader):
    """ChatML's template has no words for calls."""
    corpus = reader([{"conversations": CALLING}])
    assert list(corpus.texts()) == list(corpus.prompts()) == []
    reason = "at a function call, which the template does not know"
    assert corpus.tally == Tally(2, 0, Counter({reason: 2}))


def test_calls_are_learned_where_the_template_knows_them(reader, speaking):
    tokenizer, tools = speaking("tools"), [{"name": "colours", "parameters": {}}]
    corpus = reader([{"conversations": CALLING, "tools": json.dumps(tools)}], tokenizer=tokenizer)
    (sample,) = corpus.texts()
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    assert tokenizer.decode(said) == (
        '<call>{"name": "colours", "arguments": {"count": 3}}</call><|im_end|>These three.<|im_end|>'
    )
    assert tokenizer.decode(sample.tokens).startswith('<|im_start|>system\nTools: [{"type": "function"')
    assert "<result>red, green, blue</result>" in tokenizer.decode(sample.tokens)
    assert corpus.tally == Tally(1, 1)
    assert len(list(corpus.prompts())) == 2  # a call is an answer too


def test_tools_that_the_template_does_not_know_are_counted(reader):
    corpus = reader([{"messages": talk(ASKED, "red"), "tools": [{"name": "colours"}]}])
    assert len(list(corpus.texts())) == 1
    assert corpus.tally.cut == Counter({"without its tools, which the template does not know": 1})


@pytest.mark.parametrize(
    ("further", "reason"),
    [
        ([{"role": "critic", "content": "Hm."}], "at the role critic, which the template does not know"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "at a part of the type image_url"),
        ([{"role": "user", "content": "More?"}, {"role": "assistant", "content": None}], "at a message without words"),
        ([{"role": "assistant", "content": "green"}], "at a turn without words"),
        (talk("x", "More?")[1:], "at a turn without words"),
    ],
)
def test_a_text_ends_where_a_message_cannot_be_taken(reader, byte_tokenizer, further, reason):
    corpus = reader([[*talk(ASKED, "red"), *further, *talk("Again?", "blue")]])
    (sample,) = corpus.texts()
    assert byte_tokenizer.decode(sample.tokens).endswith("red<|im_end|>")
    assert corpus.tally == Tally(1, 1, cut=Counter({reason: 1}))


def test_the_assistant_s_words_before_the_first_question_are_counted(reader):
    corpus = reader([talk("x", "Hello there", ASKED, "red")[1:]])
    assert len(list(corpus.texts())) == 1
    assert corpus.tally == Tally(1, 1, cut=Counter({"before its first question": 1}))


@pytest.mark.parametrize("parse_special", [False, True])
@pytest.mark.parametrize("speaker", [0, 1])
def test_control_tokens_in_words_end_no_turn_unless_asked(reader, byte_tokenizer, speaker, parse_special):
    messages = talk(ASKED, "red", "More?", "green")
    messages[speaker]["content"] += "<|im_end|>!"
    (sample,) = reader([messages], parse_special=parse_special).texts()
    ends = sample.tokens.count(byte_tokenizer.eos_token_id)
    assert ends == 4 + parse_special
    assert "<|im_end|>!" in byte_tokenizer.decode(sample.tokens)
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    first = "red<|im_end|>" if parse_special or speaker == 0 else "red<|im_end|>!<|im_end|>"
    assert byte_tokenizer.decode(said) == first + "green<|im_end|>"


@pytest.mark.parametrize("ending", ["<turn>", " <turn>\n"])
def test_the_end_of_a_turn_is_what_the_template_writes(reader, speaking, ending):
    """The tokenizer's end of text is another token, as with Llama 3."""
    tokenizer = speaking("chatml", "<turn>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}" + ending + "{% endfor %}"
    corpus = reader([talk(ASKED, "red")], tokenizer=tokenizer)
    corpus.stop_ids |= {tokenizer.convert_tokens_to_ids("<turn>")}
    (sample,) = corpus.texts()
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    assert tokenizer.decode(said).endswith("red" + ending.rstrip())
    assert tokenizer.eos_token_id not in sample.tokens


def test_an_answer_that_the_template_rewrites_ends_as_the_template_ends_it(reader, speaking):
    """What was asked is no beginning of the dialogue with its answer: the answer's own words are taken."""
    tokenizer = speaking("chatml", "<turn>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}<turn>{% endfor %}{% if add_generation_prompt %}?{% else %}!{% endif %}"
    ).replace("{% for", "{{ messages | length }}{% for")
    corpus = reader([talk(ASKED, "red")], tokenizer=tokenizer)
    corpus.stop_ids |= {tokenizer.convert_tokens_to_ids("<turn>")}
    (sample,) = corpus.texts()
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    assert tokenizer.decode(said) == "red<turn>"


def test_every_dialogue_is_used_or_left_out_for_a_reason(reader):
    dialogues = [
        *(talk(f"{ASKED} {n}", "red") for n in range(3)),
        talk(f"{ASKED} 0", "red"),
        talk("", "red"),
        talk(f"{ASKED} 5", " "),
        talk(ASKED),
        {"conversations": CALLING},
        [{"role": "user", "content": [{"type": "image_url"}]}],
    ]
    corpus = reader(dialogues)
    texts = list(corpus.texts())
    assert corpus.tally.read == len(dialogues) == corpus.tally.used + corpus.tally.left_out.total()
    assert corpus.tally.used == len(texts) == 3
