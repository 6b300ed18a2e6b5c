"""Trials whose processes are killed at any moment continue from their checkpoints, with bit-identical results."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import fake_study
import numpy as np
import pytest
from fake_study import trials
from optuna.trial import TrialState

from dropopt.study.run import worker
from dropopt.study.run.checkpoints import Checkpoints
from dropopt.study.run.slots import Targets
from dropopt.study.session import session
from dropopt.study.session.request import Request

EPOCHS, BATCHES = 6, 5
DYING = Targets("dying_training:load", "dying_training:train")


def run(folder, faults, n_trials, **options):
    """Run a study of the real training in ``folder``; return its trials and the weights of each."""
    folder.mkdir(exist_ok=True)
    plan = folder / "plan.json"
    plan.write_text(json.dumps(faults))
    os.environ["DYING_PLAN"] = str(plan)
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8)
    np.savez(folder / "images.npz", x=images, y=np.arange(200) % 10)  # digits would be read with scikit-learn
    study = fake_study.make(
        train={"epochs": EPOCHS, "batch_size": 32},
        data={"name": f"numpy:{folder / 'images.npz'}"},
        n_trials=n_trials,
        sampler="random",
        pruner="none",
        **options,
    )
    storage = str(folder / "study.log")
    with fake_study.quickened():
        session.run(Request(study, Path(__file__), storage, 1, "dropopt run fake", DYING))
    import torch  # takes seconds, which a worker that will be killed need not wait for

    found = trials(storage)
    weights = {
        trial.number: torch.load(path)
        for trial in found
        if (path := folder / f"{trial.user_attrs['seed']}.pt").exists()
    }
    return found, weights


def resumed(folder):
    """Return the number of epochs in the checkpoint each time that a training continued, by training seed."""
    found = {}
    for line in (folder / "resumed").read_text().splitlines():
        seed, epochs = line.split()
        found.setdefault(seed, []).append(int(epochs))
    return found


def assert_same(whole, killed):
    """Assert that a study agrees bit for bit with the first trials of another: reports, results and weights.

    The second one may have retries.
    """
    import torch

    (first, weights), (second, others) = whole, killed
    ended = [trial for trial in second if trial.state == TrialState.COMPLETE]
    assert ended
    for before, after in zip(first[: len(ended)], ended, strict=True):
        assert list(after.intermediate_values) == list(range(1, len(before.intermediate_values) + 1))
        assert after.intermediate_values == before.intermediate_values
        assert (after.params, after.value) == (before.params, before.value)
        assert all(torch.equal(value, others[after.number][name]) for name, value in weights[before.number].items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of four trials that nothing interrupts, and the weights of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYING_PLAN", "")  # removed at the end: :func:`run` sets it
        yield run(tmp_path_factory.mktemp("whole"), {}, 4)


@pytest.fixture
def seeds(whole):
    """The training seeds of the four trials."""
    return [str(trial.user_attrs["seed"]) for trial in whole[0]]


def test_a_killed_trial_continues_to_the_same_bits(tmp_path, capsys, whole, seeds):
    """Kills at a random batch, at each stage of writing a checkpoint, and with a checkpoint that is damaged.

    Every epoch is reported once, in order, and results and weights equal those of an uninterrupted study.
    """
    step = random.Random(0).randrange(BATCHES + 1, 3 * BATCHES)
    faults = {
        seeds[0]: [["step", step]],
        seeds[1]: [["write", 3], ["fsync", 2]],
        seeds[2]: [["replace", 4]],
        seeds[3]: [["truncate", 3 * BATCHES + 2]],
    }
    capsys.readouterr()
    folder = tmp_path / "killed"
    killed = run(folder, faults, 4)
    assert json.loads((folder / "plan.json").read_text()) == {seed: [] for seed in seeds}
    assert capsys.readouterr().out.count("continues in a new process: its process was killed (signal 9)") == 5
    assert len(killed[1]) == 4
    assert_same(whole, killed)
    done = (step - 1) // BATCHES  # only the interrupted epoch is lost
    assert resumed(folder) == {seeds[0]: [done], seeds[1]: [2, 3], seeds[2]: [3]}
    assert not (folder / "study.log.checkpoints").exists()


def test_a_trial_continues_after_the_death_of_its_worker(tmp_path, whole, seeds):
    """The owner and its child are killed. The next session continues the trial from its checkpoint."""
    folder = tmp_path / "killed"
    faults = {seeds[0]: [["owner", 2 * BATCHES + 1]]}
    program = f"import pathlib, test_checkpoints as t; t.run(pathlib.Path({str(folder)!r}), {faults}, 1)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *map(os.path.abspath, sys.path)])},
        stdout=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert [trial.state for trial in trials(str(folder / "study.log"))] == [TrialState.RUNNING]
    assert_same(whole, run(folder, {}, 1))
    assert resumed(folder) == {seeds[0]: [2]}
    assert not (folder / "study.log.checkpoints").exists()


@pytest.mark.parametrize("shared", [False, True])
def test_a_worker_that_dies_after_the_last_trial_leaves_no_checkpoint(tmp_path, monkeypatch, shared):
    """The same command removes it, although the study has all its trials. In a folder that studies share, the files of
    a study of the same name in another storage stay."""

    class Killed(BaseException):
        """Ends the process."""

    def die(path):
        raise Killed

    monkeypatch.setenv("FAKE_CHECKPOINTS", "1")
    storage = str(tmp_path / "s.log")
    folder = tmp_path / ("shared" if shared else "s.log.checkpoints")
    options = {"n_trials": 1, "n_jobs": 1, "checkpoints": str(folder) if shared else None}
    with monkeypatch.context() as patch:
        patch.setattr(worker, "remove", die)
        with pytest.raises(Killed):
            fake_study.run(storage, **options)
    (left,) = folder.glob("*.pt")
    other = Checkpoints(folder, "fake").path(0)
    other.write_text("")
    assert fake_study.run(storage, **options) == 0
    assert not left.exists()
    assert other.exists()
    assert [trial.state for trial in trials(storage)] == [TrialState.COMPLETE]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_full_disk_costs_only_the_checkpoint(tmp_path, whole, seeds):
    """Without space for a checkpoint, training continues, and a killed trial is trained again with the same result."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this system does not allow mounting")
    try:
        killed = run(tmp_path / "killed", {seeds[0]: [["step", 3 * BATCHES]]}, 1, checkpoints=str(small))
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert_same(whole, killed)
