import torch

from falcon_cli.attention.merge import merge


def parts(scores, values, cut):
    """Softmax attention over the slots before and after `cut`, each with its log-sum-exp."""
    return [
        (s.softmax(-1) @ v, s.logsumexp(-1))
        for s, v in ((scores[..., :cut], values[..., :cut, :]), (scores[..., cut:], values[..., cut:, :]))
    ]


def test_two_parts_equal_attention_in_one_piece():
    generator = torch.Generator().manual_seed(0)
    scores = 8 * torch.randn(1, 3, 5, 20, dtype=torch.float64, generator=generator)
    values = torch.randn(1, 3, 20, 4, dtype=torch.float64, generator=generator)
    for cut in (1, 7, 19):
        (first, first_lse), (second, second_lse) = parts(scores, values, cut)
        whole = scores.softmax(-1) @ values
        torch.testing.assert_close(merge(first, first_lse, second, second_lse), whole, rtol=1e-12, atol=1e-12)


def test_far_apart_scores_do_not_overflow():
    out = torch.ones(1, 1, 1, 2)
    merged = merge(out, torch.tensor([[[800.0]]]), -out, torch.tensor([[[-800.0]]]))
    assert torch.equal(merged, out)


def test_an_empty_first_part_has_no_weight_whichever_infinity_it_reports():
    empty, full = torch.full((1, 1, 1, 2), 7.0), torch.ones(1, 1, 1, 2)
    for infinity in (float("inf"), float("-inf")):
        assert torch.equal(merge(empty, torch.full((1, 1, 1), infinity), full, torch.zeros(1, 1, 1)), full)


def test_half_precision_parts_are_merged_in_single_precision():
    first, second = torch.full((1, 1, 1, 1), 1.0).bfloat16(), torch.full((1, 1, 1, 1), 1.0078125).bfloat16()
    merged = merge(first, torch.zeros(1, 1, 1), second, torch.zeros(1, 1, 1))
    assert merged.dtype == torch.bfloat16
