"""Features divided by the final norm's weight come back to its input's scale, and nothing is divided by 0."""

import torch

from falcon_cli.drafters.shared.norm import divisor


def test_a_weight_divides_itself_away_and_is_kept_from_zero():
    weight_D = torch.tensor([2.0, -0.5, 0.001, -0.001, 0.0])
    assert torch.allclose(divisor(weight_D), torch.tensor([2.0, -0.5, 0.01, -0.01, 0.01]))
