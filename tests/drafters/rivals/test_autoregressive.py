import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.rivals.autoregressive import Autoregressive


def test_every_cycle_yields_one_token_from_one_node(toy_target):
    target = toy_target(lambda text: (text[-1] * 5 + 1) % 48)
    answer = complete(target, Autoregressive(torch.device("cpu")), [3], Stop((), 9))
    assert answer.ids == target.continuation([3], 9)
    assert [(cycle.emitted, cycle.nodes) for cycle in answer.cycles] == [(1, 1)] * 8
