"""A state comes back exactly; a kill or a full disk leaves the previous one."""

import errno

import pytest
import torch

from falcon_cli.distill.training import state
from falcon_cli.distill.training.optimizer import tensors_of
from falcon_cli.distill.training.state import load_state, save_state
from falcon_cli.errors import FalconError


@pytest.fixture
def trainer(training_setup):
    """A trainer that has taken three steps."""
    trainer = training_setup().trainer()
    for step in range(3):
        trainer.step(step)
    return trainer


def tensors(trainer):
    """Weights and optimizer state."""
    return {**trainer.network.state_dict(), **dict(tensors_of(trainer.network, trainer.optimizers))}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_weights_and_optimizer_state_come_back_exactly(trainer, training_setup, tmp_path):
    save_state(tmp_path / "state", trainer.network, trainer.optimizers, 3)
    again = training_setup().trainer()
    assert not same(tensors(again), tensors(trainer))
    assert load_state(tmp_path / "state", again.network, again.optimizers) == 3
    assert same(tensors(again), tensors(trainer))
    assert sum(name.endswith("/exp_avg") for name in tensors(again)) == len(trainer.parameters)
    assert again.step(3).loss == trainer.step(3).loss
    assert same(tensors(again), tensors(trainer))


def test_where_nothing_was_saved_training_begins_at_the_start(trainer, tmp_path):
    before = {name: value.clone() for name, value in tensors(trainer).items()}
    assert load_state(tmp_path / "state", trainer.network, trainer.optimizers) == 0
    assert same(before, tensors(trainer))


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("keep", [0, 9])
def test_a_damaged_state_is_named(trainer, tmp_path, name, keep):
    folder = tmp_path / "state"
    save_state(folder, trainer.network, trainer.optimizers, 3)
    (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    with pytest.raises(FalconError, match=r"is damaged .*: delete it to train from the start") as caught:
        load_state(folder, trainer.network, trainer.optimizers)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_state_of_another_network_is_named(trainer, training_setup, tmp_path):
    save_state(tmp_path / "state", trainer.network, trainer.optimizers, 3)
    other = training_setup(mixer="time").trainer()
    with pytest.raises(FalconError, match="is damaged"):
        load_state(tmp_path / "state", other.network, other.optimizers)


def test_a_full_disk_names_the_folder_and_keeps_the_state_before(trainer, training_setup, tmp_path, monkeypatch):
    folder = tmp_path / "state"
    save_state(folder, trainer.network, trainer.optimizers, 3)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_file", full)
        with pytest.raises(FalconError, match="no disk space left in") as caught:
            save_state(folder, trainer.network, trainer.optimizers, 4)
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [folder]
    again = training_setup().trainer()
    assert load_state(folder, again.network, again.optimizers) == 3


class Killed(BaseException):
    """Stands for a kill: nothing is cleaned up after it."""


def killed_in_a_save(trainer, folder, monkeypatch, renames):
    """A save that ends after this number of renames, and leaves all its files behind."""
    done = []

    def rename(old, new, really=state.atomic_folder.__globals__["os"].replace):
        if len(done) == renames:
            raise Killed
        done.append(new)
        really(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("falcon_cli.sources.disk.os.replace", rename)
        patch.setattr("falcon_cli.sources.disk.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            save_state(folder, trainer.network, trainer.optimizers, 4)


@pytest.mark.parametrize(("renames", "step"), [(0, 3), (1, 4)])
def test_a_kill_in_the_middle_of_a_save_loses_no_state(trainer, training_setup, tmp_path, monkeypatch, renames, step):
    folder = tmp_path / "state"
    save_state(folder, trainer.network, trainer.optimizers, 3)
    killed_in_a_save(trainer, folder, monkeypatch, renames)
    assert folder.exists() == (renames == 0)
    again = training_setup().trainer()
    assert load_state(folder, again.network, again.optimizers) == step
    save_state(folder, again.network, again.optimizers, 5)
    assert list(tmp_path.iterdir()) == [folder]
    assert load_state(folder, again.network, again.optimizers) == 5
