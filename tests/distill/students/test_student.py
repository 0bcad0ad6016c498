"""What all students have: the target's weights, the draft vocabulary, a snapshot."""

import pytest
import torch
from torch import nn

from falcon_cli.distill.students.student import in_training, target_weights, vocabulary_of
from falcon_cli.errors import FalconError


def test_head_and_numbers_follow_the_draft_vocabulary(training_setup):
    target = training_setup().target
    vocabulary_W = torch.tensor([1, 4, 7])
    some, every = target_weights(target, vocabulary_W), target_weights(target, None)
    assert torch.equal(some.head_WD, target.model.head.weight[vocabulary_W])
    assert some.number_V.tolist() == [vocabulary_W.tolist().index(v) if v in (1, 4, 7) else -1 for v in range(48)]
    assert torch.equal(every.head_WD, target.model.head.weight)
    assert every.number_V.tolist() == list(range(48))
    assert torch.equal(some.embedding_VD, target.model.model.get_input_embeddings().weight)


def test_no_vocabulary_is_the_whole_and_too_large_a_one_is_refused_by_its_key(training_setup):
    setup = training_setup()
    assert vocabulary_of(0, setup.target, setup.samples) is None
    assert vocabulary_of(48, setup.target, setup.samples) is None
    assert len(vocabulary_of(20, setup.target, setup.samples)) == 20
    with pytest.raises(FalconError, match=r"^medusa\.draft_vocab_size is 50, the target's vocabulary 48"):
        vocabulary_of(50, setup.target, setup.samples, "medusa")


def test_a_network_learns_in_fp32():
    network = in_training(nn.Linear(2, 2).half().requires_grad_(False).eval(), torch.device("cpu"))
    assert network.weight.dtype is torch.float32
    assert network.weight.requires_grad
    assert network.training


def test_on_another_device_all_goes_along(training_setup):
    setup = training_setup(draft_vocab_size=20)
    moved = setup.student.on(torch.device("meta"))
    assert moved.weights.head_WD.device.type == "meta"
    assert {parameter.device.type for parameter in moved.network.parameters()} == {"meta"}
    assert type(moved) is type(setup.student)
