"""The draft vocabulary: frequent answer tokens, specials first, nothing twice."""

import torch

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.batches import Batch
from falcon_cli.distill.objective.vocabulary import choose_vocabulary, coverage, extend, number_of_V


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


def test_coverage_is_the_share_of_answer_tokens_alone_and_with_the_text_s_earlier_tokens():
    assert coverage([TEXT], torch.tensor([3])) == (0.25, 0.5)  # the second 5 follows the first
    assert coverage([TEXT], torch.tensor([5, 9])) == (0.5, 0.5)
    assert coverage([sample([7, 3, 7], [0, 1, 1])], torch.tensor([3])) == (0.5, 1.0)


def batch_of(*texts):
    """Texts of token ids, padded with zeros; the rest of a batch plays no part."""
    width = max(map(len, texts))
    tokens_BT = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
    nothing = torch.zeros(0)
    return Batch((), tokens_BT[:, 0], tokens_BT[:, 1:], nothing, nothing, nothing, nothing, nothing)


def test_a_batch_extends_the_vocabulary_by_its_tokens():
    head_VD = torch.arange(20.0)[:, None]
    fixed_W = torch.tensor([0, 2, 5])
    got = extend(batch_of([9, 5, 7, 9], [7, 2, 7]), head_VD, head_VD[fixed_W], number_of_V(fixed_W, 20))
    assert got.head_WD.flatten().tolist() == [0, 2, 5, 7, 9]
    assert [int(got.number_V[token]) for token in (0, 2, 5, 7, 9, 3)] == [0, 1, 2, 3, 4, -1]
    assert got.first_BY.tolist() == [[2, 0], [0, 4]]  # 9 never comes in the second text


def test_biases_go_along():
    head_VD, bias_V, fixed_W = torch.arange(20.0)[:, None], 100 + torch.arange(20.0), torch.tensor([0, 2, 5])
    number_V = number_of_V(fixed_W, 20)
    got = extend(batch_of([9, 5, 7]), head_VD, head_VD[fixed_W], number_V, bias_V, bias_V[fixed_W])
    assert got.bias_W.tolist() == [100, 102, 105, 107, 109]
    assert extend(batch_of([9, 5, 7]), head_VD, head_VD[fixed_W], number_V).bias_W is None


def test_a_batch_without_extra_tokens_leaves_it_as_it_is():
    head_VD = torch.arange(20.0)[:, None]
    for fixed_W in (torch.tensor([0, 2, 5]), None):
        head_WD = head_VD if fixed_W is None else head_VD[fixed_W]
        got = extend(batch_of([5, 2, 5]), head_VD, head_WD, number_of_V(fixed_W, 20))
        assert torch.equal(got.head_WD, head_WD)
        assert got.first_BY.shape == (1, 0)
