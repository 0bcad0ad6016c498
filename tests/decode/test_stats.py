from falcon_cli.decode.stats import Completion, Cycle


def cycle(emitted, seconds=0.5):
    return Cycle(emitted=emitted, nodes=9, draft_seconds=0.1, verify_seconds=0.3, seconds=seconds)


def test_a_cycles_last_token_is_the_bonus_and_not_an_accepted_one():
    assert [cycle(emitted).accepted for emitted in (1, 2, 6)] == [0, 1, 5]


def test_acceptance_rate_is_one_less_the_share_of_bonus_tokens():
    answer = Completion(prompt_tokens=4, ids=list(range(1 + 10)), cycles=[cycle(1), cycle(6), cycle(3)])
    tau = sum(c.accepted for c in answer.cycles) / len(answer.cycles)
    alpha = sum(c.accepted for c in answer.cycles) / answer.decode_tokens
    assert answer.decode_tokens == len(answer.ids) - 1
    assert alpha == 1 - 1 / (tau + 1) == 0.7


def test_seconds_after_prefill_are_those_of_the_cycles():
    answer = Completion(prompt_tokens=4, prefill_seconds=3.0, cycles=[cycle(1, 0.25), cycle(2, 0.5)])
    assert answer.decode_seconds == 0.75


def test_an_empty_completion_counts_nothing():
    assert (Completion(prompt_tokens=1).decode_tokens, Completion(prompt_tokens=1).decode_seconds) == (0, 0)
