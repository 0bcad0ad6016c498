import random

import numpy
import torch

from falcon_cli.seeding import generator, seed_everything


def test_a_generator_repeats_its_numbers():
    assert torch.equal(torch.rand(8, generator=generator(7)), torch.rand(8, generator=generator(7)))
    assert not torch.equal(torch.rand(8, generator=generator(7)), torch.rand(8, generator=generator(8)))


def test_a_generator_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    torch.rand(8, generator=generator(7))
    assert torch.equal(before, torch.random.get_rng_state())


def test_seed_everything_covers_python_numpy_and_torch():
    def draw():
        return random.random(), numpy.random.rand(), torch.rand(()).item()

    seed_everything(2**32 + 3)
    first = draw()
    assert draw() != first
    seed_everything(2**32 + 3)
    assert draw() == first
