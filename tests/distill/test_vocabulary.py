"""The draft vocabulary: frequent answer tokens, specials first, nothing twice."""

import torch

from falcon_cli.distill.sample import Sample
from falcon_cli.distill.vocabulary import choose_vocabulary, coverage, number_of_V


def sample(tokens, answer):
    return Sample("a", tuple(tokens), tuple(map(bool, answer)))


TEXT = sample([9, 9, 9, 9, 5, 5, 7, 3], [0, 0, 0, 0, 1, 1, 1, 1])


def test_the_most_frequent_answer_tokens_are_chosen_prompts_do_not_count():
    assert choose_vocabulary([TEXT], 2, []).tolist() == [3, 5]  # 3 and 7 are tied: the smaller id


def test_specials_are_always_in():
    assert choose_vocabulary([TEXT], 2, [40]).tolist() == [5, 40]


def test_where_the_text_is_too_short_small_ids_fill_up():
    assert choose_vocabulary([TEXT], 6, [1]).tolist() == [0, 1, 2, 3, 5, 7]


def test_numbers_lead_back_to_the_tokens():
    vocabulary = torch.tensor([2, 5, 7])
    assert number_of_V(vocabulary, 8).tolist() == [-1, -1, 0, -1, -1, 1, -1, 2]
    assert number_of_V(None, 3).tolist() == [0, 1, 2]


def test_coverage_is_the_share_of_answer_tokens():
    assert coverage([TEXT], torch.tensor([5, 9])) == 0.5
