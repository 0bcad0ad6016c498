"""A sitting: to the end, or to Ctrl-C, and on again as if nothing had been."""

import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from falcon_cli.distill.folder import DistillFolder
from falcon_cli.distill.training import session as module
from falcon_cli.distill.training.curves import draw_curves
from falcon_cli.distill.training.log import read_log
from falcon_cli.distill.training.session import TrainingSession, graceful_interrupt
from falcon_cli.distill.training.state import load_state
from falcon_cli.errors import FalconError

STEPS = 12


@pytest.fixture(autouse=True)
def _sketches(monkeypatch):
    """Pictures are slow; one test draws them."""
    monkeypatch.setattr(module, "draw_curves", lambda steps, evaluations, path: path.write_text("a sketch"))


class Desk:
    """A training_setup with a run folder; every call of `sit` is a new process as far as training knows."""

    def __init__(self, training_setup, path, **changes):
        self.training_setup, self.changes = training_setup, {"steps": STEPS, **changes}
        self.folder = DistillFolder(path)
        path.mkdir(exist_ok=True)
        self.measured, self.checkpoints = [], []
        self.in_step = self.in_measure = lambda step: None

    def sit(self, minutes=99.0):
        """Train on from what is saved."""
        room = self.training_setup(**self.changes)
        trainer = room.trainer()
        trainer.recipe = replace(trainer.recipe, save_minutes=minutes)
        step = trainer.step

        def watched(number, asked):
            self.in_step(number)
            return step(number, asked)

        trainer.step = watched
        TrainingSession(self.folder, room.student.network, self._measure, self.checkpoints.append).run(trainer)
        return trainer

    def losses(self):
        """The diary's steps and losses."""
        return [(line["step"], line["loss"]) for line in read_log(self.folder.metrics)]

    def saved(self):
        """Steps in the saved state."""
        room = self.training_setup(**self.changes)
        return load_state(self.folder.state, room.student.network, room.trainer().optimizers)

    def _measure(self, step):
        self.measured.append(step)
        self.in_measure(step)
        return {"top1": [[0.5, 0.25]], "tau": 1.0}


@pytest.fixture
def desk(training_setup, tmp_path):
    def desk(name="run", **changes):
        return Desk(training_setup, tmp_path / name, **changes)

    return desk


@pytest.fixture
def whole(desk):
    """The diary of a run without a break."""
    straight = desk("whole")
    straight.sit()
    return straight.losses()


def at(step, action):
    """Does something at one step, once."""
    left = [step]

    def hook(number):
        if left == [number]:
            left.clear()
            action()

    return hook


def ctrl_c():
    signal.raise_signal(signal.SIGINT)  # to this very thread: os.kill's may come late, or two of them as one


def fail():
    raise RuntimeError("the power went")


def test_a_run_to_the_end_leaves_diary_looks_state_checkpoint_and_picture(desk, capsys, monkeypatch):
    monkeypatch.setattr(module, "draw_curves", draw_curves)
    one = desk()
    one.sit()
    lines = read_log(one.folder.metrics)
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert set(lines[0]) >= {"loss", "slots", "glanced", "rate", "norm", "tokens", "seconds"}
    assert one.measured == [5, 10, 12]
    assert [line["step"] for line in read_log(one.folder.held_out)] == [5, 10, 12]
    assert (one.checkpoints, one.saved()) == ([12], 12)
    assert one.folder.curves.read_bytes().startswith(b"\x89PNG")
    assert "step 10: held-out top-1 pass 1 50.0/25.0 %; tokens per cycle 2.00" in capsys.readouterr().err


def test_it_saves_when_the_time_has_come(desk, monkeypatch):
    now = [0.0]

    def tick():
        now[0] += 20.0  # seconds from step to step
        return now[0]

    monkeypatch.setattr(module, "monotonic", tick)
    one = desk()
    one.sit(minutes=1.0)
    assert len(one.checkpoints) > 2
    assert all(b - a >= 2 for a, b in zip(one.checkpoints, one.checkpoints[1:], strict=False))
    assert one.checkpoints[-1] == STEPS


@pytest.mark.parametrize("step", [1, 5, 7, 11])
def test_after_a_kill_at_any_step_the_losses_go_on_bit_for_bit(desk, whole, step):
    one = desk()
    one.in_step = at(step, fail)
    with pytest.raises(RuntimeError, match="the power went"):
        one.sit(minutes=0.0)
    assert one.saved() == step
    one.sit()
    assert one.losses() == whole
    assert [line["step"] for line in read_log(one.folder.held_out)] == [5, 10, 12]


def test_steps_taken_after_the_last_save_are_taken_again(desk, whole):
    one = desk()
    one.in_step = at(9, fail)
    with pytest.raises(RuntimeError, match="the power went"):
        one.sit()
    assert one.saved() == 0
    assert [step for step, _ in one.losses()] == list(range(9))
    one.sit()
    assert one.losses() == whole
    assert [line["step"] for line in read_log(one.folder.held_out)] == [5, 10, 12]


@pytest.mark.parametrize(("mixer", "optimizer"), [("time", "adamw"), ("linear", "muon")])
def test_every_network_and_optimizer_goes_on_exactly(desk, mixer, optimizer):
    straight, broken = (desk(name, mixer=mixer, optimizer=optimizer) for name in "ab")
    straight.sit()
    broken.in_step = at(5, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        broken.sit()
    broken.sit()
    assert broken.losses() == straight.losses()


def test_ctrl_c_in_a_step_is_obeyed_after_it_and_the_state_is_kept(desk, whole, capsys):
    one = desk()
    one.in_step = at(4, ctrl_c)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        one.sit()
    done = len(one.losses())
    assert done == 6  # the step it came in, and the one that was told of it
    assert (one.saved(), one.checkpoints) == (done, [done])
    assert signal.getsignal(signal.SIGINT) == before
    assert f"{done} of 12 steps are kept in {one.folder.path}; add --resume to go on" in capsys.readouterr().err
    one.sit()
    assert one.losses() == whole
    assert f"resuming: {done} of 12 steps are already taken" in capsys.readouterr().err


def test_ctrl_c_in_a_look_is_obeyed_too(desk, whole):
    one = desk()
    one.in_measure = at(5, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        one.sit()
    assert one.saved() == len(one.losses()) == 6
    assert [line["step"] for line in read_log(one.folder.held_out)] == [5]
    one.sit()
    assert one.losses() == whole
    assert one.measured == [5, 10, 12]


def test_a_second_ctrl_c_stops_on_the_spot(desk, whole):
    one = desk()

    def twice():
        ctrl_c()
        ctrl_c()

    one.in_step = at(4, twice)
    with pytest.raises(KeyboardInterrupt):
        one.sit()
    assert len(one.losses()) == 4
    assert one.saved() == 0
    one.sit()
    assert one.losses() == whole


def test_ctrl_c_in_the_last_step_ends_the_run_as_ever(desk, whole):
    one = desk()
    one.in_step = at(STEPS - 1, ctrl_c)
    one.sit()
    assert one.losses() == whole


def test_a_finished_run_takes_no_more_steps(desk, whole):
    one = desk()
    one.sit()
    one.in_step = lambda step: fail()
    one.sit()
    assert one.losses() == whole


def test_a_loss_that_is_no_number_stops_and_leaves_its_batch(desk, training_setup):
    one = desk()
    build = one.training_setup

    def broken(**changes):
        room = build(**changes)
        text = room.features.texts[3]
        room.features.texts[3] = replace(text, features_LD=torch.full_like(text.features_LD, float("nan")))
        return room

    one.training_setup = broken
    with pytest.raises(
        FalconError, match=r"is not finite; its batch is saved in .*: look for broken features"
    ) as caught:
        one.sit(minutes=0.0)
    assert "\n" not in str(caught.value)
    held = load_file(one.folder.path / "not-finite.safetensors")
    assert 3 in held["numbers"].tolist()
    assert torch.isnan(held["features_BLD"]).any()
    one.training_setup = build
    done = len(one.losses())
    assert f"step {done} " in str(caught.value)
    assert one.saved() == done


def test_the_first_ctrl_c_is_a_wish_the_second_an_interrupt():
    with graceful_interrupt() as asked:
        assert not asked()
        ctrl_c()
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
