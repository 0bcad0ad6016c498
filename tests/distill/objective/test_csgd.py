"""One training forward: what the network reads, what it is compared with, and where."""

from dataclasses import replace

import pytest
import torch

from falcon_cli.distill.features.batches import collate, generator_of, loss_positions_BL
from falcon_cli.distill.objective.csgd import TargetWeights, teacher_signal, tokens_before, train_forward
from falcon_cli.distill.objective.glancing import one_block_ahead
from falcon_cli.drafters.falcon.blocks import Blocks
from falcon_cli.drafters.falcon.unroll import unrolled

CPU = torch.device("cpu")


def batch_of(setup, numbers):
    return collate(numbers, setup.features.fetch(numbers), CPU, torch.float32)


class Watched:
    """The network, recording its inputs; its outputs can be given."""

    def __init__(self, setup, predicts=None):
        self.network, self.predicts, self.shown = setup.student.network, predicts, []

    def __call__(self, *inputs):
        self.shown.append(inputs)
        return self.network(*inputs) if self.predicts is None else self.predicts[inputs[-1]]


def forward(setup, numbers, step=0, glance=0.0, predicts=None, **changes):
    """The outcome, and what the network was shown at each prediction."""
    watched = Watched(setup, predicts)
    recipe = replace(setup.recipe, **changes)
    return train_forward(watched, setup.student.weights, batch_of(setup, numbers), recipe, step, glance), watched.shown


@pytest.mark.parametrize("k", [1, 2, 3])
def test_position_i_learns_feature_i_plus_k_and_the_distribution_there(training_setup, k):
    setup = training_setup(k=k)
    batch = batch_of(setup, [4])
    text, sample = setup.features.texts[4], setup.samples[4]
    loss_BL = loss_positions_BL(batch, k)
    signal = teacher_signal(batch, setup.student.weights.extend(batch), loss_BL, k)
    places = loss_BL[0].nonzero().flatten().tolist()
    assert places == [i for i in range(len(sample) - 1) if i + k + 1 < len(sample) and sample.answer[i + k + 1]]
    for row, place in enumerate(places):
        assert torch.equal(signal.features_MD[row], text.features_LD[place + k])
        assert torch.equal(signal.ids_MZ[row].int(), text.top_ids_LZ[place + k])
        assert torch.equal(signal.logprobs_MZ[row], text.top_logprobs_LZ[place + k])


def test_a_drafter_that_predicts_the_true_features_has_no_loss_and_is_always_right(training_setup):
    setup = training_setup(k=2)
    batch = batch_of(setup, [3, 4])
    outcome, _ = forward(setup, [3, 4], glance=1.0, noise=0.1, predicts=batch.features_BLD.roll(-2, 1))
    assert float(outcome.losses.feature) == 0.0
    assert bool(outcome.losses.right_M.all())
    assert (outcome.wrong, outcome.glanced) == (0, 0)
    assert len(outcome.slot_M) == int(loss_positions_BL(batch, 2).sum())


def test_glanced_inputs_are_replaced_together_by_those_one_block_ahead(training_setup):
    setup = training_setup(k=2)
    batch = batch_of(setup, [3, 4, 5])
    outcome, (first, second) = forward(setup, [3, 4, 5], glance=0.5, noise=0.0)
    glanced_BL = (first[1] != second[1]).any(-1)
    assert int(glanced_BL.sum()) == outcome.glanced > 0
    assert torch.equal(second[1], one_block_ahead(batch.features_BLD, glanced_BL, 2))
    tokens_BL = one_block_ahead(batch.tokens_BL, glanced_BL, 2)
    assert torch.equal(second[0], setup.student.weights.embedding_VD[tokens_BL])
    assert torch.equal(first[2].mask_BLL, second[2].mask_BLL)
    assert torch.equal(first[3], second[3])


@pytest.mark.parametrize("k", [2, 3])
def test_glanced_positions_bear_no_loss(training_setup, k):
    setup = training_setup(k=k)
    numbers = [3, 4, 5]
    batch = batch_of(setup, numbers)
    predicts = torch.zeros_like(batch.features_BLD).requires_grad_()
    outcome, (first, second) = forward(setup, numbers, glance=1.0, noise=0.0, predicts=predicts)
    outcome.losses.total.backward()
    glanced_BL = (first[1] != second[1]).any(-1)
    positions_BL = loss_positions_BL(batch, k) & ~glanced_BL
    assert 0 < outcome.glanced == int(glanced_BL.sum())
    assert torch.equal((predicts.grad != 0).any(-1), positions_BL)
    assert len(outcome.slot_M) == int(positions_BL.sum())


def test_the_first_prediction_bears_no_gradient_and_counts_the_wrong(training_setup):
    setup = training_setup(k=2)
    batch = batch_of(setup, [3])
    outcome, _ = forward(setup, [3], glance=0.5, predicts=torch.zeros_like(batch.features_BLD).requires_grad_())
    signal = teacher_signal(batch, setup.student.weights.extend(batch), loss_positions_BL(batch, 2), 2)
    assert outcome.wrong == int((signal.ids_MZ[:, 0] != 0).sum())  # all logits alike: the first token wins


def test_with_nothing_to_glance_at_there_is_one_prediction(training_setup):
    assert len(forward(training_setup(k=2), [3], glance=0.0)[1]) == 1
    assert len(forward(training_setup(k=1), [3], glance=0.5)[1]) == 1
    assert len(forward(training_setup(k=2), [3], glance=0.5)[1]) == 2


def test_noise_of_a_text_depends_on_its_number_and_the_step_alone(training_setup):
    setup = training_setup(noise=0.1)

    def noise(numbers, step, **changes):
        (shown,) = forward(setup, numbers, step, **changes)[1]
        length = len(setup.samples[4]) - 1
        row = numbers.index(4)
        return (shown[1] - batch_of(setup, numbers).features_BLD)[row, :length]

    alone = noise([4], 7)
    assert torch.allclose(alone, noise([3, 4, 5], 7), atol=1e-6)  # got back by a subtraction
    assert not torch.allclose(alone, noise([4], 8), atol=1e-3)
    assert not torch.allclose(alone, noise([4], 7, seed=1), atol=1e-3)


@pytest.mark.parametrize(("kind", "spread"), [("uniform", 0.3 / 3**0.5), ("gaussian", 0.3)])
def test_noise_is_of_the_kind_and_scale_asked_for_and_spares_the_padding(training_setup, kind, spread):
    setup = training_setup(noise_kind=kind)
    numbers = list(range(12))
    (shown,) = forward(setup, numbers, noise=0.3)[1]
    batch = batch_of(setup, numbers)
    noise_BLD = shown[1] - batch.features_BLD
    real_BL = torch.arange(noise_BLD.shape[1]) < batch.length_B[:, None]
    assert not noise_BLD[~real_BL].any()
    assert float(noise_BLD[real_BL].std()) == pytest.approx(spread, rel=0.05)
    assert abs(float(noise_BLD[real_BL].mean())) < 0.02
    assert (float(noise_BLD.abs().max()) <= 0.3001) == (kind == "uniform")


def test_without_noise_the_features_are_shown_as_they_are(training_setup):
    setup = training_setup()
    (shown,) = forward(setup, [4, 5], noise=0.0)[1]
    assert torch.equal(shown[1], batch_of(setup, [4, 5]).features_BLD)


def test_the_phase_is_drawn_for_each_step(training_setup):
    setup = training_setup(k=3)
    batch = batch_of(setup, [4, 5])
    length = batch.tokens_BL.shape[1]
    masks = [Blocks.of_texts(batch.length_B, length, 3, phase).mask_BLL for phase in range(3)]
    drawn = set()
    for step in range(20):
        (shown,) = forward(setup, [4, 5], step)[1]
        (phase,) = [phase for phase in range(3) if torch.equal(shown[2].mask_BLL, masks[phase])]
        drawn.add(phase)
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize("step", range(4))
def test_positions_are_counted_under_their_slot(training_setup, step):
    setup = training_setup(k=3)
    outcome, (shown,) = forward(setup, [4], step)
    seen_L = shown[2].mask_BLL[0, 0].sum(-1)  # a position sees up to the end of its block
    ends = seen_L.tolist()
    begins = [0, *ends]
    slots = [place - begins[ends.index(end)] for place, end in enumerate(ends)]
    first = ends[0] % 3  # a first block cut short in front begins with a later slot
    expected = [slot + 1 + (3 - first) % 3 * (end == ends[0]) for slot, end in zip(slots, ends, strict=True)]
    assert outcome.slot_M.tolist() == torch.tensor(expected)[loss_positions_BL(batch_of(setup, [4]), 3)[0]].tolist()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_token_before_is_the_one_that_a_position_predicts_after(k):
    weights = TargetWeights(torch.arange(20.0)[:, None], torch.zeros(20, 1), torch.zeros(20, 1), torch.arange(20))
    tokens_BL = torch.arange(1, 9)[None]  # position i reads token i + 1
    before_L = tokens_before(weights, tokens_BL, k)[0, :, 0]
    assert before_L[: 9 - k].tolist() == [place + k for place in range(9 - k)]  # and predicts token i + k + 1


def steps_of_phase(phase, k, count):
    """Steps of seed 0 that draw this phase."""
    drawn = (
        step for step in range(100) if int(torch.randint(k, (), generator=generator_of(0, "phase", step))) == phase
    )
    return [step for step, _ in zip(drawn, range(count), strict=False)]


@pytest.mark.parametrize("passes", [2, 3])
def test_later_passes_learn_on_what_the_drafter_itself_would_read_there(training_setup, passes):
    setup = training_setup(k=2, mixer="linear")
    (step,) = steps_of_phase(0, 2, 1)
    numbers = [3, 4, 5]
    _, shown = forward(setup, numbers, step, noise=0.0, passes=passes)
    assert len(shown) == passes
    batch = batch_of(setup, numbers)
    network, weights = setup.student.network, setup.student.weights
    even = batch.tokens_BL.shape[1] // 2 * 2
    embedded_BLD = weights.embedding_VD[batch.tokens_BL[:, :even]]
    before_BLD = tokens_before(weights, batch.tokens_BL, 2)[:, :even]
    expected = unrolled(network, embedded_BLD, batch.features_BLD[:, :even], before_BLD, batch.length_B, passes)
    *inputs, wanted_BM = shown[-1]
    assert not inputs[1].requires_grad
    predicted_MD = network(*inputs, wanted_BM)
    stream_M = wanted_BM.nonzero()[:, 1] // batch.tokens_BL.shape[1]
    for number in range(passes):
        wanted_BL = wanted_BM.chunk(passes, 1)[number][:, :even]
        assert torch.equal(wanted_BL, loss_positions_BL(batch, 2)[:, :even] & (torch.arange(even) >= 2 * number))
        assert torch.allclose(predicted_MD[stream_M == number], expected[number][wanted_BL], atol=1e-5)


def test_each_later_pass_adds_its_weighted_loss(training_setup):
    setup = training_setup(k=2, mixer="linear")

    def total(**changes):
        return float(forward(setup, [3, 4], noise=0.0, **changes)[0].losses.total)

    none, half, full = (total(passes=2, pass_weight=weight) for weight in (0.0, 0.5, 1.0))
    assert none == pytest.approx(total(), rel=1e-6)
    assert half - none == pytest.approx(full - half, rel=1e-4)
    assert full > 1.5 * none  # an untrained drafter is no better on its own features


def test_glancing_shows_the_first_pass_only(training_setup):
    setup = training_setup(k=2, mixer="linear")
    batch = batch_of(setup, [3, 4])
    outcome, (_, shown) = forward(setup, [3, 4], glance=0.5, noise=0.0, passes=2)
    tokens_BL = setup.student.weights.embedding_VD[batch.tokens_BL]
    first, second = shown[0].chunk(2, 1)
    assert int((first != tokens_BL).any(-1).sum()) == outcome.glanced > 0
    assert torch.equal(second, tokens_BL)


def test_all_phases_at_once_are_the_sum_of_each(training_setup):
    setup = training_setup(k=3, csgd=False)
    outcomes = {}
    for phases in ("all", "drawn"):
        recipe = replace(setup.recipe, phases=phases, noise=0.0)
        batch = collate([0, 1, 2], setup.features.fetch([0, 1, 2]), torch.device("cpu"), torch.float32)
        steps = range(1) if phases == "all" else range(12)
        outcomes[phases] = [
            train_forward(setup.student.network, setup.student.weights, batch, recipe, step, 0.0) for step in steps
        ]
    apart = {tuple(result.slot_M.tolist()): result for result in outcomes["drawn"]}
    (together,) = outcomes["all"]
    assert len(apart) == 3  # every phase was drawn
    assert float(together.losses.total) == pytest.approx(
        sum(float(result.losses.total) for result in apart.values()), rel=1e-5
    )
    assert len(together.slot_M) == sum(len(result.slot_M) for result in apart.values())
    assert together.losses.right_M.sum() == sum(result.losses.right_M.sum() for result in apart.values())
    loss_positions = replace(setup.student, recipe=replace(setup.recipe, phases="all")).loss_positions
    assert len(together.slot_M) == sum(loss_positions(setup.samples[number].answer) for number in (0, 1, 2))
