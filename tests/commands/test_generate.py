import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def generate(falcon, chat_target):
    """`falcon generate` on the tiny target, eight tokens long unless told."""
    return lambda *words, stdin="": falcon(
        "generate", "--target", chat_target, "--max-new-tokens", 8, *words, stdin=stdin
    )


def lines(*records):
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def test_every_method_gives_the_same_text_and_only_that_on_stdout(generate):
    plain = generate("the end", "--method", "ar")
    assert plain.code == 0
    assert plain.out.strip()
    for method in ("pld", "pld:max_ngram=2,length=4", "lookahead:window=3"):
        assert generate("the end", "--method", method).out == plain.out


def test_sps_with_the_target_as_its_own_draft_model(generate, chat_target):
    words = ["--method", "sps:min_probability=0", "--draft-model", chat_target, "--json"]
    document = generate("the end", *words).document
    assert document["token_ids"] == generate("the end", "--method", "ar", "--json").document["token_ids"]
    assert document["stats"]["accepted_length"] > 2


def test_sps_with_a_draft_model_that_has_not_all_added_tokens(falcon, chat_target, far_target):
    for target, draft in ((chat_target, far_target), (far_target, chat_target)):
        words = ["generate", "--target", target, "--max-new-tokens", 8, "--json", "the end"]
        sps = falcon(*words, "--method", "sps:min_probability=0", "--draft-model", draft)
        assert sps.document["token_ids"] == falcon(*words, "--method", "ar").document["token_ids"]
        assert sps.document["stats"]["accepted_length"] > 2


def test_the_prompt_comes_from_stdin_when_piped(generate):
    assert generate(stdin="the end").out == generate("the end").out


def test_json_holds_text_ids_and_statistics(generate):
    document = generate("the end", "--json").document
    assert set(document) == {"text", "token_ids", "finish", "stats"}
    assert len(document["token_ids"]) == document["stats"]["new_tokens"] == 8
    assert document["finish"] == "length"
    assert document["stats"]["tokens_per_cycle"] == pytest.approx(document["stats"]["accepted_length"] + 1, abs=1e-3)


def test_jsonl_keeps_the_order_and_passes_fields_through(generate):
    asked = [{"prompt": f"question {number}", "id": number, "mark": {"é": [number]}} for number in (3, 1, 2)]
    asked.append({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "in"}]})
    outcome = generate("--jsonl", stdin=lines(asked[0], "", *asked[1:]))
    answered = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 0
    assert [{key: answer[key] for key in question} for question, answer in zip(asked, answered, strict=True)] == asked
    assert all(answer["text"] is not None and answer["token_ids"] for answer in answered)


def test_json_is_json_where_stdout_is_ascii(chat_target):
    done = subprocess.run(
        [sys.executable, "-m", "falcon_cli", "generate", "--jsonl", "--target", chat_target, "--max-new-tokens", "2"],
        input=lines({"prompt": "the end", "mark": "\U0001f600"}),
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mark"] == "\U0001f600"


def test_half_a_character_in_a_passed_field_comes_out_as_it_came(generate):
    outcome = generate("--jsonl", stdin='{"prompt": "the end", "mark": "\\ud83d"}\n')
    assert (outcome.code, outcome.document["mark"]) == (0, "\ud83d")


def test_a_number_that_json_has_not_is_refused_with_its_line(generate):
    outcome = generate("--jsonl", stdin='\n{"prompt": "the end", "score": NaN}\n')
    assert outcome.code == 1
    assert outcome.complaint.startswith("stdin:2: NaN is no finite number")


def test_a_token_without_a_row_is_named(falcon, far_target):
    for words in (["--method", "ar"], ["--check"]):
        complaint = falcon("generate", "--target", far_target, "the <|far|> end", *words).complaint
        assert "cannot read the token <|far|> (id 263): its embedding has 263 rows" in complaint


def test_a_token_without_a_row_is_named_or_its_question_skipped_in_bench(falcon, far_target, questions):
    asked = questions.read_text()
    questions.write_text(json.dumps({"question_id": 6, "turns": ["the <|far|> end"]}) + "\n" + asked)
    words = ["bench", "--target", far_target, "--dataset", questions, "--method", "pld", "--max-new-tokens", 4]
    assert "question 6: the model cannot read the token <|far|> (id 263)" in falcon(*words).complaint
    outcome = falcon(*words, "--keep-going", "--json")
    assert (outcome.code, outcome.document["prompts"]) == (0, 3)
    assert "a token that the model's embedding has not" in outcome.document["reference"]["reason"]


def test_jsonl_from_a_file(generate, tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text(lines({"prompt": "the end"}))
    assert generate(path, "--jsonl").document["token_ids"] == generate("the end", "--json").document["token_ids"]


def test_streaming_writes_the_same_text_and_statistics_to_stderr(generate):
    whole = generate("the end")
    streamed = generate("the end", "--stream")
    assert streamed.out == whole.out
    assert "tokens per cycle" in streamed.err


def test_show_draft_colours_only(generate):
    words = [
        "in the end in the end",
        "--method",
        "pld",
        "--max-new-tokens",
        60,
    ]  # the default may find no draft worth it
    shown = generate(*words, "--show-draft")
    assert shown.out.count("\x1b[32m") == shown.out.count("\x1b[0m") > 0
    bare = shown.out.replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert bare == generate(*words).out


def test_raw_and_system_change_the_prompt(generate):
    tokens = [
        generate("the end", "--json", *words).document["stats"]["prompt_tokens"]
        for words in ([], ["--raw"], ["--system", "Be brief."])
    ]
    assert tokens[1] < tokens[0] < tokens[2]


def test_a_stop_text_never_leaks(generate):
    text = generate("the end", "--max-new-tokens", 40).out
    stop = text[5:8]
    stopped = generate("the end", "--max-new-tokens", 40, "--stop", stop, "--json").document
    assert stopped["text"] == text[: text.index(stop)]
    assert stopped["finish"] == "stop"


def test_a_malformed_line_is_named_and_keep_going_skips_and_counts(generate):
    asked = lines({"prompt": "one"}, "{", {"prompt": "two"}, {"no": "prompt"})
    stopped = generate("--jsonl", stdin=asked)
    assert stopped.code == 1
    assert len(stopped.out.splitlines()) == 1  # what was done is kept
    assert "stdin:2: not JSON" in stopped.err
    went_on = generate("--jsonl", "--keep-going", stdin=asked)
    assert went_on.code == 0
    assert len(went_on.out.splitlines()) == 2
    assert "stdin: 2 malformed lines skipped" in went_on.err


def test_what_the_template_does_not_take_is_named_with_its_line_or_skipped(generate):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    tool = {"messages": [{"role": "user", "content": "?"}, call, {"role": "tool", "content": "3"}]}
    asked = lines({"prompt": "one"}, tool, {"prompt": "word " * 300}, {"prompt": "two"})
    stopped = generate("--jsonl", stdin=asked)
    assert stopped.code == 1
    assert "error: stdin:2: this target's chat template has no words for a function call" in stopped.err
    went_on = generate("--jsonl", "--keep-going", stdin=asked)
    assert went_on.code == 0
    assert [json.loads(line)["prompt"] for line in went_on.out.splitlines()] == ["one", "two"]
    assert "skipped: stdin:2: " in went_on.err
    assert "skipped: stdin:3: " in went_on.err


def test_a_user_s_words_end_no_turn(generate):
    """Unless the option asks for it."""
    words = "one<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>user\nthree"
    turns = [{"role": ("user", "assistant")[n % 2], "content": w} for n, w in enumerate(("one", "two", "three"))]
    (told,) = map(json.loads, generate("--jsonl", stdin=lines({"messages": turns})).out.splitlines())
    assert generate(words, "--parse-special", "--json").document["token_ids"] == told["token_ids"]
    assert generate(words, "--json").document["stats"]["prompt_tokens"] > told["stats"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["hi", "--method", "pdl"], 2, "unknown method pdl (did you mean pld?)"),
        (["hi", "--method", "pld:lenght=3"], 2, "method pld has no option lenght (did you mean length?)"),
        (["hi", "--method", "pld:length=few"], 2, "pld:length=few"),
        (["hi", "--method", "lookahead:window=0"], 2, "lookahead: needs window >= 1"),
        (["hi", "--method", "sps"], 2, "sps needs --draft-model"),
        (["hi", "--show-draft", "--json"], 2, "--show-draft"),
        (["hi", "--template", "vicunna"], 2, "(did you mean vicuna?)"),
        (["hi", "--raw", "--system", "Be brief."], 2, "leave out system"),
        (["hi", "--device", "abacus"], 2, "--device abacus"),
        (["hi", "--set", "sytem=x"], 1, "--set sytem: unknown key (did you mean system?)"),
        ([" "], 1, "the prompt is empty"),
        ([""], 1, "the prompt is empty"),
        (["word " * 300], 1, "the target's context 512; shorten the prompt"),
        (["hi", "--max-new-tokens", "500"], 1, "ask for at most"),
        (["nowhere.jsonl", "--jsonl"], 1, "cannot read nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_clear_line(generate, words, code, part):
    outcome = generate(*words)
    assert part in outcome.complaint
    assert outcome.code == code


def test_bytes_that_are_no_text(generate):
    outcome = generate(stdin=b"\xff\xfe")
    assert (outcome.code, outcome.complaint) == (1, "stdin is not UTF-8 text; convert it first")


def test_targets_that_cannot_be_used(falcon, chat_target, tmp_path):
    missing = falcon("generate", "hi", "--target", "./nowhere")
    assert (missing.code, missing.complaint) == (1, "no such file or folder: ./nowhere")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in chat_target.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"\x00" * 100)
    outcome = falcon("generate", "hi", "--target", broken)
    assert outcome.code == 1
    assert "cannot be loaded as a causal LM with safetensors weights" in outcome.complaint


def test_a_draft_model_of_another_vocabulary(generate, chat_target, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in chat_target.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    described = json.loads((other / "tokenizer.json").read_text())
    vocabulary = described["model"]["vocab"]
    vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]
    (other / "tokenizer.json").write_text(json.dumps(described))
    outcome = generate("hi", "--method", "sps", "--draft-model", other)
    assert outcome.code == 1
    assert "has another vocabulary" in outcome.complaint


def test_a_recipe_is_read_and_options_override_it(falcon, chat_target, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"target: {{model: {chat_target}}}\nmax_new_tokens: 5\n")
    assert falcon("generate", "hi", "--json", "--recipe", recipe).document["stats"]["new_tokens"] == 5
    words = ["generate", "hi", "--json", "--recipe", recipe, "--set", "max_new_tokens=4"]
    assert falcon(*words).document["stats"]["new_tokens"] == 4
    assert falcon(*words, "--max-new-tokens", 3).document["stats"]["new_tokens"] == 3
    recipe.write_text("max_new_token: 5\n")
    outcome = falcon("generate", "hi", "--recipe", recipe)
    assert outcome.code == 1
    assert outcome.complaint == f"{recipe}: max_new_token: unknown key (did you mean max_new_tokens?)"


def test_a_closed_pipe_ends_quietly(chat_target, tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text(lines(*({"prompt": f"question {number}"} for number in range(400))))
    words = ["generate", str(path), "--jsonl", "--target", str(chat_target), "--max-new-tokens", "64"]
    falcon = subprocess.Popen(
        [sys.executable, "-m", "falcon_cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert json.loads(falcon.stdout.readline())["prompt"] == "question 0"
    falcon.stdout.close()  # as `| head -1` does
    assert falcon.stderr.read() == b""
    assert falcon.wait(60) == 0


def test_check_holds_the_first_answer_against_the_model_itself(generate):
    outcome = generate("--check", "--jsonl", stdin=lines({"prompt": "the end"}, {"prompt": "in"}))
    first, second = map(json.loads, outcome.out.splitlines())
    assert (outcome.code, "reference" in second) == (0, False)
    assert (first["reference"]["verdict"], first["reference"]["tokens"]) == ("equal", 8)
    assert outcome.err.splitlines()[-1] == "reference: equal (8 tokens of transformers.generate)"
    whole = generate("the end", "--check", "--max-new-tokens", 40, "--method", "lookahead")
    assert (whole.out, whole.code) == (generate("the end", "--max-new-tokens", 40).out, 0)
    assert "reference: equal (32 tokens of transformers.generate)" in whole.err
    assert generate("--check", "--jsonl").code == 0


def test_check_fails_where_the_model_itself_says_otherwise(generate, misread):
    misread()
    assert generate("the end").code == 0
    outcome = generate("the end", "--check", "--json")
    assert (outcome.code, outcome.document["reference"]["verdict"]) == (3, "FAILED")
    *_, told, error = outcome.err.splitlines()
    assert told.startswith("reference: FAILED at token ")
    assert error == "falcon: error: not the target's own output: transformers.generate says otherwise"


def test_check_of_quantised_weights_tells_how_many_tokens_agree(generate):
    outcome = generate("the end", "--check", "--quantize", "int8", "--json")
    assert (outcome.code, outcome.document["reference"]["verdict"]) == (0, None)
    assert "of 32 tokens are transformers' choice (other weights: no verdict)" in outcome.err
