from falcon_cli.drafters.saved.card import card

ABOUT = {
    "method": "falcon",
    "k": 2,
    "network": {"k": 2, "mixer": "time", "normalise": True, "draft_vocab_size": 8},
    "draft_vocab_size": 16384,
    "vocab_size": 49152,
    "hidden_size": 576,
    "target": "smollm2-135m-instruct",
    "training": {
        "data": ["sharegpt"],
        "steps": 12000,
        "accuracy": [0.5, 0.375],
        "history": [{"step": 1}],
        "command": "falcon distill recipes/distill/smollm2.yaml",
    },
}


def test_a_card_tells_what_it_is_and_how_it_was_made():
    text = card(ABOUT)
    assert text.startswith("# A Falcon drafter for smollm2-135m-instruct\n")
    assert "2 tokens a pass" in text
    assert "| tokens that may be drafted | 16,384 of 49,152 |" in text
    assert "| steps | 12,000 |" in text
    assert "| data | sharegpt |" in text
    assert "| slot 1 | 50.0% |\n| slot 2 | 37.5% |" in text
    assert "```sh\nfalcon distill recipes/distill/smollm2.yaml\n```" in text
    assert "licence of the target" in text
    assert "history" not in text


def test_what_nobody_knows_is_left_out():
    text = card({**ABOUT, "k": 1, "draft_vocab_size": 0, "training": {}})
    assert "1 token a pass" in text
    assert "49,152 of 49,152" in text
    assert "Made by" not in text
    assert "Held-out" not in text


def test_accuracies_may_carry_names():
    assert "| slot 1, top 10 | 25.0% |" in card({**ABOUT, "training": {"accuracy": {"slot 1, top 10": 0.25}}})
