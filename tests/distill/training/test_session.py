"""A session: to the end, or to Ctrl-C, and then continued as if it had not been interrupted."""

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
def _no_plots(monkeypatch):
    """Plots are slow; one test draws them."""
    monkeypatch.setattr(module, "draw_curves", lambda steps, evaluations, path: path.write_text("a plot"))


class Run:
    """A training_setup with a run folder; every call of `train` stands for a new process."""

    def __init__(self, training_setup, path, **changes):
        self.training_setup, self.changes = training_setup, {"steps": STEPS, **changes}
        self.folder = DistillFolder(path)
        path.mkdir(exist_ok=True)
        self.measured, self.checkpoints = [], []
        self.in_step = self.in_measure = lambda step: None

    def train(self, minutes=99.0):
        """Train from the saved state on."""
        setup = self.training_setup(**self.changes)
        trainer = setup.trainer()
        trainer.recipe = replace(trainer.recipe, save_minutes=minutes)
        step = trainer.step

        def watched(number, asked):
            self.in_step(number)
            return step(number, asked)

        trainer.step = watched
        TrainingSession(self.folder, setup.student.network, self._measure, self.checkpoints.append).run(trainer)
        return trainer

    def losses(self):
        """The log's steps and losses."""
        return [(line["step"], line["loss"]) for line in read_log(self.folder.metrics)]

    def saved(self):
        """Steps in the saved state."""
        setup = self.training_setup(**self.changes)
        return load_state(self.folder.state, setup.student.network, setup.trainer().optimizers)

    def _measure(self, step):
        self.measured.append(step)
        self.in_measure(step)
        return {"top1": [[0.5, 0.25]], "tau": 1.0}


@pytest.fixture
def new_run(training_setup, tmp_path):
    def build(name="run", **changes):
        return Run(training_setup, tmp_path / name, **changes)

    return build


@pytest.fixture
def whole(new_run):
    """The losses of a run without interruption."""
    straight = new_run("whole")
    straight.train()
    return straight.losses()


def at(step, action):
    """A hook that acts at one step, once."""
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


def test_a_run_to_the_end_leaves_logs_state_checkpoint_and_curves(new_run, capsys, monkeypatch):
    monkeypatch.setattr(module, "draw_curves", draw_curves)
    run = new_run()
    run.train()
    lines = read_log(run.folder.metrics)
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert set(lines[0]) >= {"loss", "slots", "glanced", "rate", "norm", "tokens", "seconds"}
    assert run.measured == [5, 10, 12]
    assert [line["step"] for line in read_log(run.folder.held_out)] == [5, 10, 12]
    assert (run.checkpoints, run.saved()) == ([12], 12)
    assert run.folder.curves.read_bytes().startswith(b"\x89PNG")
    assert "step 10: held-out top-1 pass 1 50.0/25.0 %; tokens per cycle 2.00" in capsys.readouterr().err


def test_it_saves_when_the_time_has_come(new_run, monkeypatch):
    now = [0.0]

    def tick():
        now[0] += 20.0  # seconds from step to step
        return now[0]

    monkeypatch.setattr(module, "monotonic", tick)
    run = new_run()
    run.train(minutes=1.0)
    assert len(run.checkpoints) > 2
    assert all(b - a >= 2 for a, b in zip(run.checkpoints, run.checkpoints[1:], strict=False))
    assert run.checkpoints[-1] == STEPS


@pytest.mark.parametrize("step", [1, 5, 7, 11])
def test_after_a_kill_at_any_step_the_losses_go_on_bit_for_bit(new_run, whole, step):
    run = new_run()
    run.in_step = at(step, fail)
    with pytest.raises(RuntimeError, match="the power went"):
        run.train(minutes=0.0)
    assert run.saved() == step
    run.train()
    assert run.losses() == whole
    assert [line["step"] for line in read_log(run.folder.held_out)] == [5, 10, 12]


def test_steps_taken_after_the_last_save_are_taken_again(new_run, whole):
    run = new_run()
    run.in_step = at(9, fail)
    with pytest.raises(RuntimeError, match="the power went"):
        run.train()
    assert run.saved() == 0
    assert [step for step, _ in run.losses()] == list(range(9))
    run.train()
    assert run.losses() == whole
    assert [line["step"] for line in read_log(run.folder.held_out)] == [5, 10, 12]


@pytest.mark.parametrize(("mixer", "optimizer"), [("time", "adamw"), ("linear", "muon")])
def test_every_network_and_optimizer_goes_on_exactly(new_run, mixer, optimizer):
    straight, broken = (new_run(name, mixer=mixer, optimizer=optimizer) for name in "ab")
    straight.train()
    broken.in_step = at(5, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    broken.train()
    assert broken.losses() == straight.losses()


def test_ctrl_c_in_a_step_is_obeyed_after_it_and_the_state_is_kept(new_run, whole, capsys):
    run = new_run()
    run.in_step = at(4, ctrl_c)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    done = len(run.losses())
    assert done == 6  # the step it came in, and the one after
    assert (run.saved(), run.checkpoints) == (done, [done])
    assert signal.getsignal(signal.SIGINT) == before
    assert f"{done} of 12 steps are kept in {run.folder.path}; add --resume to go on" in capsys.readouterr().err
    run.train()
    assert run.losses() == whole
    assert f"resuming: {done} of 12 steps are already taken" in capsys.readouterr().err


def test_ctrl_c_in_an_evaluation_is_obeyed(new_run, whole):
    run = new_run()
    run.in_measure = at(5, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert run.saved() == len(run.losses()) == 6
    assert [line["step"] for line in read_log(run.folder.held_out)] == [5]
    run.train()
    assert run.losses() == whole
    assert run.measured == [5, 10, 12]


def test_a_second_ctrl_c_stops_on_the_spot(new_run, whole):
    run = new_run()

    def twice():
        ctrl_c()
        ctrl_c()

    run.in_step = at(4, twice)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert len(run.losses()) == 4
    assert run.saved() == 0
    run.train()
    assert run.losses() == whole


def test_ctrl_c_in_the_last_step_ends_the_run_as_ever(new_run, whole):
    run = new_run()
    run.in_step = at(STEPS - 1, ctrl_c)
    run.train()
    assert run.losses() == whole


def test_a_finished_run_takes_no_more_steps(new_run, whole):
    run = new_run()
    run.train()
    run.in_step = lambda step: fail()
    run.train()
    assert run.losses() == whole


def test_a_loss_that_is_not_finite_stops_and_leaves_its_batch(new_run, training_setup):
    run = new_run()
    build = run.training_setup

    def broken(**changes):
        setup = build(**changes)
        text = setup.features.texts[3]
        setup.features.texts[3] = replace(text, features_LD=torch.full_like(text.features_LD, float("nan")))
        return setup

    run.training_setup = broken
    with pytest.raises(
        FalconError, match=r"is not finite; its batch is saved in .*: look for broken features"
    ) as caught:
        run.train(minutes=0.0)
    assert "\n" not in str(caught.value)
    batch = load_file(run.folder.path / "not-finite.safetensors")
    assert 3 in batch["numbers"].tolist()
    assert torch.isnan(batch["features_BLD"]).any()
    run.training_setup = build
    done = len(run.losses())
    assert f"step {done} " in str(caught.value)
    assert run.saved() == done


def test_the_first_ctrl_c_is_a_request_the_second_an_interrupt():
    with graceful_interrupt() as asked:
        assert not asked()
        ctrl_c()
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
