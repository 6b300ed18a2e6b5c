"""fit: it learns, wastes nothing, keeps its random streams apart, and goes on where it was stopped."""

import copy
import errno
import io
import math
import os
import pickle
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dropopt.config import Baseline, ConfigError, DataConfig, EngineConfig, ModelConfig, RunConfig, TrainConfig
from dropopt.engine import attach
from dropopt.training import (
    Dataset,
    DivergedError,
    EpochReport,
    Split,
    augment,
    build_model,
    evaluate,
    fit,
    load_data,
    train_run,
)
from dropopt.training.files import clear_leftovers, seal, write_whole
from dropopt.training.optim import learning_rate, make_optimizer
from dropopt.training.results import smoothed

CLASSES = 4


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DROPOPT_CACHE", str(tmp_path / "cache"))


def toy(n=90, side=8, channels=2, seed=0):
    """Noisy images of four classes, in three splits of which the last may be poisoned."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, channels, side, side, generator=draw)

    def split(count):
        labels = torch.arange(count) % CLASSES
        images = centres[labels] + torch.randn(count, channels, side, side, generator=draw)
        return Split(images.contiguous(memory_format=torch.channels_last), labels)

    return Dataset("toy", tuple("abcd"), split(n), split(40), split(40))


def network(seed=0, **options):
    config = ModelConfig(name="small", options={"widths": (8, 8), "head": 16, **options})
    return build_model(config, channels=2, classes=CLASSES, image_size=8, seed=seed)


def recipe(**settings):
    return TrainConfig(**{"epochs": 4, "batch_size": 16, "lr": 0.05, **settings})


def train(engine=None, data=None, on_epoch=None, checkpoint=None, seed=0, **settings):
    """A fresh network, trained; (result, weights)."""
    data = data or toy()
    model = network(seed)
    config = recipe(seed=seed, **settings)
    if engine is None:
        result = fit(model, None, data, config, on_epoch, checkpoint=checkpoint)
    else:
        with attach(model, engine, example=data.train.images[:2]) as attached:
            result = fit(model, attached, data, config, on_epoch, checkpoint=checkpoint)
    return result, model.state_dict()


def timeless(history):
    """Reports without their one field that is never the same twice."""
    return [asdict(replace(report, seconds=0.0)) for report in history]


def assert_same(first, second):
    """Two trainings agree bit for bit: results, reports and weights."""
    (result, weights), (other, others) = first, second
    assert timeless(result.history) == timeless(other.history)
    assert replace(result, history=[]) == replace(other, history=[])
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name


class FakeEngine:
    """Records what it is told; changes nothing."""

    def __init__(self, update_every="epoch", needs_probe=False):
        self.config = EngineConfig(update_every=update_every)
        self.needs_probe = needs_probe
        self.calls = []

    def watch(self, optimizer):
        """Recorded."""
        self.calls.append(("watch", optimizer))

    def probe(self, images, labels):
        """Recorded."""
        self.calls.append(("probe", images.clone(), labels.clone()))

    def step(self, **signals):
        """Recorded."""
        self.calls.append(("step", signals))

    def rates(self):
        """How many calls there have been."""
        return [{"site": "a", "applied": float(len(self.calls))}]

    def weights(self):
        """Always the same."""
        return {"adaptive": 1.0}

    def state_dict(self):
        """Nothing."""
        return {}


class TestLearning:
    """That it trains."""

    def test_digits_are_learned_in_seconds(self):
        """With the default engine, 15 epochs reach 0.97 on validation, and the weights that are kept do so too."""
        run = RunConfig.parse({"train": {"epochs": 15, "batch_size": 64}})
        began = time.process_time()
        result, model, data = train_run(run)
        assert time.process_time() - began < 30  # a few seconds on a machine that has nothing else to do
        assert result.best_val_accuracy >= 0.97
        assert result.best_epoch > 1
        loss, accuracy = evaluate(model, data.validation, run.train)
        assert accuracy == result.best_val_accuracy
        assert math.isclose(loss, result.best_val_loss, rel_tol=1e-6)
        assert not any(module._forward_hooks for module in model.modules())

    @pytest.mark.parametrize(
        "settings",
        [
            {"optimizer": "adamw", "lr": 0.01, "schedule": "cosine"},
            {"schedule": "constant", "label_smoothing": 0.1},
            {"amp": "bf16", "channels_last": True, "augment": ("shift", "cutout")},
            {"momentum": 0.0, "lr": 0.3},
        ],
    )
    def test_every_recipe_learns(self, settings):
        """Each optimizer, schedule and precision brings the loss well below a guess's."""
        result, _ = train(epochs=6, **settings)
        assert result.history[-1].val_loss < 0.5 * math.log(CLASSES)
        assert result.history[-1].train_loss < result.history[0].train_loss

    def test_the_test_split_is_not_read(self):
        """With NaN in every test image and labels out of range, training is the same bit for bit."""
        data, poisoned = toy(), toy()
        poisoned.test.images.fill_(torch.nan)
        poisoned.test.labels.fill_(-1)
        assert_same(train(EngineConfig(), data), train(EngineConfig(), poisoned))

    def test_the_best_epoch_is_kept(self):
        """The model ends with the weights of the epoch whose smoothed loss was lowest, not with the last."""
        data = toy()
        seen = []
        model = network(seed=1)
        config = recipe(epochs=6, lr=0.5, schedule="constant", smooth=0.3, seed=1)
        result = fit(model, None, data, config, lambda report: seen.append(copy.deepcopy(model.state_dict())))
        losses = [report.smoothed_loss for report in result.history]
        assert result.best_epoch == 1 + losses.index(min(losses))
        assert result.best_epoch < 6  # or the recipe above no longer makes the point
        for name, value in model.state_dict().items():
            assert torch.equal(value, seen[result.best_epoch - 1][name])
        best = result.history[result.best_epoch - 1]
        assert (result.best_val_loss, result.best_val_accuracy) == (best.val_loss, best.val_accuracy)
        assert result.smoothed_loss == losses[-1]

    def test_smoothing_is_a_corrected_moving_average(self):
        """After n losses it is their mean with weights decay^age, and the raw loss for decay 0."""
        losses = [3.0, 1.0, 2.0]
        weights = [0.36, 0.6, 1.0]
        expected = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
        assert math.isclose(smoothed(losses, 0.6)[-1], expected)
        assert smoothed(losses, 0.0) == losses
        assert math.isclose(smoothed([2.5] * 9, 0.9)[-1], 2.5)

    def test_patience_ends_a_training_that_gains_nothing(self):
        """It stops ``patience`` epochs after the best one, and says how many it ran."""
        result, _ = train(epochs=30, lr=1.5, schedule="constant", patience=2)
        assert len(result.history) < 30
        assert len(result.history) == result.best_epoch + 2

    def test_every_image_is_used_once_an_epoch(self):
        """97 images in batches of 16: none is left out, none comes twice, and the one left over joins a batch."""
        data = toy(n=97)
        seen = []
        model = network()
        model.register_forward_pre_hook(lambda m, given: seen.append(given[0].clone()) if m.training else None)
        fit(model, None, data, recipe(epochs=1))
        assert [len(batch) for batch in seen] == [16] * 5 + [17]
        shown, had = ([tuple(image.flatten().tolist()) for image in x] for x in (torch.cat(seen), data.train.images))
        assert sorted(shown) == sorted(had)

    def test_a_batch_size_of_one_is_allowed(self):
        """Where one image a step is asked for, it is given."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES))
        assert len(fit(model, None, toy(n=5), recipe(epochs=1, batch_size=1)).history) == 1

    def test_reports_say_what_happened(self):
        """Epochs count from 1, losses match a recount, and the rate is the last step's."""
        data, reports = toy(), []
        model = network()
        config = recipe(epochs=3)
        fit(model, None, data, config, reports.append)
        assert [(r.epoch, r.epochs) for r in reports] == [(1, 3), (2, 3), (3, 3)]
        assert all(isinstance(r, EpochReport) and r.seconds > 0 for r in reports)
        assert reports[-1].lr == learning_rate(config, (2 + 5 / 6) / 3)


class TestDivergence:
    """Losses that are not finite."""

    class Poisoned(nn.Module):
        """Logits that are NaN in one call."""

        def __init__(self, call):
            super().__init__()
            self.inside, self.call, self.calls = nn.Linear(128, CLASSES), call, 0

        def forward(self, x):
            """(N, C, H, W) -> (N, classes)."""
            self.calls += 1
            out = self.inside(x.flatten(1))
            return out * torch.nan if self.calls == self.call else out

    def test_epoch_and_step_are_told(self):
        """A loss that is NaN in step 3 of epoch 2 is reported as that, though found at the epoch's end."""
        model = self.Poisoned(call=6 + 1 + 3)  # six steps and one batch of validation, then three steps
        with pytest.raises(DivergedError, match="training loss is nan at epoch 2, step 3") as caught:
            fit(model, None, toy(), recipe())
        assert (caught.value.epoch, caught.value.step) == (2, 3)

    def test_validation_counts_too(self):
        """A validation loss that is not finite is no result either."""
        with pytest.raises(DivergedError, match="validation loss is nan at epoch 1"):
            fit(self.Poisoned(call=7), None, toy(), recipe())

    def test_a_rate_that_is_absurd_diverges(self):
        """It is found on its own, with a real network, and no epoch is reported."""
        reports = []
        with pytest.raises(DivergedError):
            train(lr=1e30, schedule="constant", on_epoch=reports.append)
        assert reports == []

    def test_the_error_crosses_processes(self):
        """It survives pickling with its epoch, step and message."""
        error = DivergedError(2, 5, math.inf)
        twin = pickle.loads(pickle.dumps(error))
        assert (twin.epoch, twin.step, str(twin)) == (2, 5, str(error))


class TestStreams:
    """Random streams that never touch each other."""

    def inputs(self, engine, **settings):
        """Every training batch that the model was shown, before dropout, and its initial weights."""
        data, model = toy(), network()
        initial = copy.deepcopy(model.state_dict())
        seen = []
        model.register_forward_pre_hook(lambda m, given: seen.append(given[0].clone()) if m.training else None)
        with attach(model, engine, example=data.train.images[:2]) as attached:
            seen.clear()
            result = fit(model, attached, data, recipe(epochs=2, **settings))
        return seen, initial, result

    def test_a_drop_rate_changes_neither_data_nor_initial_weights(self):
        """Rates of 0.1 and 0.6, and no dropout at all, see the same batches, augmented alike, from the same start."""
        runs = [
            self.inputs(engine, augment=("shift", "flip", "cutout"))
            for engine in (EngineConfig(r0=0.1), EngineConfig(r0=0.6, pattern="element"), Baseline(kind="none"))
        ]
        for seen, initial, _ in runs[1:]:
            assert len(seen) == len(runs[0][0]) == 12
            assert all(torch.equal(a, b) for a, b in zip(seen, runs[0][0], strict=True))
            assert all(torch.equal(value, runs[0][1][name]) for name, value in initial.items())
        losses = {result.history[-1].train_loss for _, _, result in runs}
        assert len(losses) == 3  # the dropout itself did differ

    def test_one_augmentation_does_not_move_another(self):
        """Switching cutout on leaves every image's shift as it was."""
        images = toy().train.images
        alone = augment.draw(("shift",), images, seed=1, epoch=2, device=torch.device("cpu"))
        both = augment.draw(("cutout", "shift"), images, seed=1, epoch=2, device=torch.device("cpu"))
        assert torch.equal(alone.shift, both.shift)

    def test_the_same_seed_gives_the_same_training(self):
        """Two runs agree bit for bit whatever was drawn before; another seed, or another order, does not."""
        first = train(EngineConfig())
        torch.rand(5)
        assert_same(first, train(EngineConfig()))
        other, _ = train(EngineConfig(), seed=1)
        assert other.history[0].train_loss != first[0].history[0].train_loss

    def test_the_callers_random_state_is_left_alone(self):
        """Training seeds torch's global stream for the masks, and puts it back, after a failure too."""
        torch.manual_seed(77)
        expected = torch.rand(3)
        torch.manual_seed(77)
        train(EngineConfig(), epochs=1)
        with pytest.raises(DivergedError):
            train(lr=1e30, schedule="constant")
        assert torch.equal(torch.rand(3), expected)


class TestEngine:
    """What the engine is told, and when."""

    def test_after_each_epoch_with_its_metrics(self):
        """watch comes first, then one step per epoch with epochs completed and what validation said."""
        engine = FakeEngine()
        result = fit(network(), engine, toy(), recipe())
        assert engine.calls[0][0] == "watch"
        assert isinstance(engine.calls[0][1], torch.optim.SGD)
        told = [signals for _, signals in engine.calls[1:]]
        assert [t["epoch"] for t in told] == [1, 2, 3, 4]
        assert {t["epochs"] for t in told} == {4}
        for signals, report in zip(told, result.history, strict=True):
            for name in ("val_loss", "train_loss", "val_accuracy"):
                assert signals[name] == getattr(report, name)

    def test_every_n_steps_too(self):
        """With update_every 4 and 6 steps an epoch, rates are refreshed after steps 4, 8, 12, ... and each epoch."""
        engine = FakeEngine(update_every=4)
        fit(network(), engine, toy(), recipe(epochs=2))
        told = [signals for kind, signals in engine.calls if kind == "step"]
        assert [round(t["epoch"] * 6) for t in told] == [4, 6, 8, 12]
        assert ["val_loss" in t for t in told] == [False, True, False, True]

    def test_a_probe_sees_a_training_batch_before_each_step(self):
        """Where importances need labels, a batch as it was trained on comes before every refresh."""
        data, engine = toy(), FakeEngine(update_every=5, needs_probe=True)
        fit(network(), engine, data, recipe(epochs=2))
        kinds = [call[0] for call in engine.calls]
        assert kinds == ["watch"] + ["probe", "step"] * 4
        for _, images, labels in (call for call in engine.calls if call[0] == "probe"):
            for image, label in zip(images, labels, strict=True):
                found = (data.train.images == image).flatten(1).all(1).nonzero().item()
                assert data.train.labels[found] == label

    def test_reports_carry_the_rates_in_force(self):
        """Rates and weights of a report are those with which the epoch ended, before the refresh after it."""
        result = fit(network(), FakeEngine(), toy(), recipe(epochs=2))
        assert [report.rates[0]["applied"] for report in result.history] == [1.0, 2.0]
        assert result.history[0].weights == {"adaptive": 1.0}

    def test_a_baseline_serves_as_well(self):
        """A scheduled torch dropout behind the same attach trains, and its rate rises."""
        result, _ = train(Baseline(kind="dropout", p=0.4, schedule="linear"))
        rates = [report.rates[0]["applied"] for report in result.history]
        assert rates == sorted(rates)
        assert rates[0] < rates[-1] <= 0.4


class Stop(Exception):
    """Raised in on_epoch."""


class TestResume:
    """Stopped and resumed equals never stopped."""

    CASES = (
        ({"augment": ("shift", "flip", "cutout")}, EngineConfig(allocation="feature")),
        ({"optimizer": "adamw", "lr": 0.01, "patience": 2}, EngineConfig(update_every=2, drop_updates=True)),
        ({"channels_last": True, "amp": "bf16"}, EngineConfig(importance="gradient", pattern="structured")),
        ({"schedule": "cosine"}, EngineConfig(efficacy="adaptive", pattern="spatial", w_spatial=0.5)),
        ({"schedule": "constant"}, Baseline(kind="dropblock", schedule="linear")),
        ({"schedule": "constant", "lr": 0.5, "smooth": 0.0}, None),  # its best epoch is not its last
    )

    @pytest.mark.parametrize(("settings", "engine"), CASES)
    def test_after_every_epoch_bit_for_bit(self, tmp_path, settings, engine):
        """Stopped by an exception after each epoch in turn, the run ends with the same bits as one that was not."""
        whole = train(engine, **settings)
        path = tmp_path / "run.pt"
        seen = []

        def stop(report):
            seen.append(report.epoch)
            raise Stop

        def go_on(report):
            seen.append(report.epoch)
            if report.epoch == len(attempts) + 1:
                raise Stop

        attempts = []
        with pytest.raises(Stop):  # nothing is written before on_epoch has returned
            train(engine, on_epoch=stop, checkpoint=path, **settings)
        assert not path.exists()
        while True:
            try:
                parts = train(engine, on_epoch=go_on, checkpoint=path, **settings)
                break
            except Stop:
                attempts.append(1)
        assert_same(whole, parts)
        assert seen[:6] == [1, 1, 1, 2, 2, 3]  # the epoch under way is done again, no other is, none is skipped

    def test_the_best_epoch_survives_a_stop(self, tmp_path):
        """Weights of a best epoch before the stop are those that the run ends with."""
        settings, engine = self.CASES[-1]
        whole = train(engine, **settings)
        assert whole[0].best_epoch == 2  # or the case no longer makes the point

        def stop(report):
            if report.epoch == 4:
                raise Stop

        with pytest.raises(Stop):
            train(engine, on_epoch=stop, checkpoint=tmp_path / "run.pt", **settings)
        assert_same(whole, train(engine, checkpoint=tmp_path / "run.pt", **settings))

    def test_dropout_of_the_networks_own_goes_on_too(self, tmp_path):
        """Without an engine, masks that a person's own nn.Dropout draws are those of an unbroken run."""

        def run(**options):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, CLASSES))
            return fit(model, None, toy(), recipe(), **options), model.state_dict()

        def stop(report):
            if report.epoch == 3:
                raise Stop

        whole = run()
        with pytest.raises(Stop):
            run(on_epoch=stop, checkpoint=tmp_path / "run.pt")
        assert_same(whole, run(checkpoint=tmp_path / "run.pt"))

    def test_a_finished_run_is_only_read(self, tmp_path):
        """Resuming after the last epoch trains nothing, reports nothing and gives the same result and weights."""
        path = tmp_path / "run.pt"
        first = train(EngineConfig(), checkpoint=path)
        reports = []
        assert_same(first, train(EngineConfig(), checkpoint=path, on_epoch=reports.append))
        assert reports == []

    def test_killed_in_the_middle_of_a_batch(self, tmp_path):
        """A process killed with SIGKILL in an arbitrary batch loses at most that epoch: the weights are the same."""
        script = textwrap.dedent(
            f"""
            import os, pathlib, signal, sys
            sys.path.insert(0, {os.path.dirname(__file__)!r})
            import torch
            torch.set_num_threads(1)
            import test_fit
            steps = 0
            def die(*_):
                global steps
                steps += 1
                if steps == 15:
                    os.kill(os.getpid(), signal.SIGKILL)
            from torch.optim.optimizer import register_optimizer_step_pre_hook
            register_optimizer_step_pre_hook(die)
            test_fit.train(test_fit.EngineConfig(), checkpoint=pathlib.Path(sys.argv[1]))
            """
        )
        path = tmp_path / "run.pt"
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == -9, done.stderr
        epochs = []
        resumed = train(EngineConfig(), checkpoint=path, on_epoch=lambda report: epochs.append(report.epoch))
        assert epochs == [3, 4]  # 15 steps are two epochs of six and half of the third
        assert_same(train(EngineConfig()), resumed)


class TestCheckpointFile:
    """Whole or absent, and never code."""

    def test_a_kill_at_any_stage_leaves_the_one_before(self, tmp_path):
        """A process that dies while writing, syncing or renaming leaves the old content; the next write cleans up."""
        script = textwrap.dedent(
            """
            import os, pathlib, sys
            from dropopt.training import files
            path = pathlib.Path(sys.argv[1])
            die = lambda *_: os._exit(9)  # no handler, no finally, nothing flushed
            class Torn:
                def __init__(self, handle, mode): self.file = open(handle, mode)
                def __enter__(self): return self
                def __exit__(self, *_): pass
                def write(self, data): self.file.write(data[:10]); self.file.flush(); die()
            for stage, fault in {"fdopen": Torn, "fsync": die, "replace": die}.items():
                child = os.fork()
                if not child:
                    setattr(os, stage, fault)
                    files.write_whole(path, b"new content, longer than ten bytes")
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, stage
                assert path.read_bytes() == b"old", stage
            """
        )
        path = tmp_path / "run.pt"
        write_whole(path, b"old")
        subprocess.run([sys.executable, "-c", script, str(path)], check=True)
        assert len(list(tmp_path.iterdir())) == 1 + 3
        clear_leftovers(path)
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("function", ["fsync", "replace", "fdopen"])
    def test_a_full_disk_costs_a_warning(self, tmp_path, monkeypatch, function):
        """Training goes on, the checkpoint before stands and loads, and nothing is left beside it."""
        path = tmp_path / "run.pt"
        whole = train()

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        def fill(report):
            if report.epoch == 3:
                monkeypatch.setattr(os, function, full)

        with pytest.warns(UserWarning, match="cannot be written .*No space left on device"):
            assert_same(whole, train(on_epoch=fill, checkpoint=path))
        monkeypatch.undo()
        assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
        epochs = []
        assert_same(whole, train(on_epoch=lambda report: epochs.append(report.epoch), checkpoint=path))
        assert epochs == [3, 4]

    def damaged(self, path, content):
        """The result of a run that finds ``content`` where its checkpoint should be."""
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"is not usable .* kept as run.pt.bad and training starts afresh"):
            result = train(checkpoint=path)
        assert path.with_name("run.pt.bad").read_bytes() == content
        return result

    def test_a_damaged_one_is_set_aside(self, tmp_path):
        """Cut anywhere, flipped, empty or foreign: it is kept as .bad, told, and the run equals a fresh one."""
        path = tmp_path / "run.pt"
        whole = train(checkpoint=path)
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 255
        foreign = io.BytesIO()
        torch.save([1, 2], foreign)
        cuts = (0, 1, 100, len(content) // 2, len(content) - 1)
        strangers = (bytes(flipped), b"hello", foreign.getvalue(), seal(foreign.getvalue()), seal(b"hello"))
        for bad in (*(content[:cut] for cut in cuts), *strangers):
            assert_same(whole, self.damaged(path, bad))

    def test_one_of_another_run_is_set_aside(self, tmp_path):
        """Another seed, recipe, engine, network or data set does not go on from this run's file."""
        path = tmp_path / "run.pt"
        train(EngineConfig(), checkpoint=path)
        content = path.read_bytes()
        others = (
            {"engine": EngineConfig(), "seed": 1},
            {"engine": EngineConfig(), "epochs": 5},
            {"engine": EngineConfig(r0=0.3)},
            {"engine": None},
            {"engine": EngineConfig(), "data": replace(toy(), fingerprint={"train": "other"})},
        )
        for other in others:
            path.write_bytes(content)
            with pytest.warns(UserWarning, match="it is of another run"):
                result = train(checkpoint=path, **other)
            assert_same(train(**other), result)

    def test_it_never_runs_code(self, tmp_path):
        """A pickle that would create a folder is refused and set aside, however well it is wrapped."""

        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        evil = io.BytesIO()
        torch.save({"version": 1, "identity": Evil()}, evil)
        for wrapped in (evil.getvalue(), seal(evil.getvalue()), pickle.dumps(Evil()), seal(pickle.dumps(Evil(), 2))):
            self.damaged(tmp_path / "run.pt", wrapped)
        assert not (tmp_path / "ran").exists()


class TestOptimizer:
    """Rates and decay."""

    def test_norms_and_biases_do_not_decay(self):
        """Weights of two or more dimensions are in the group that decays, everything else in one that does not."""
        model = network()
        for kind in ("sgd", "adamw"):
            decays, spared = make_optimizer(model, recipe(optimizer=kind, weight_decay=0.1)).param_groups
            assert (decays["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
            assert {id(p) for p in decays["params"]} == {id(p) for p in model.parameters() if p.ndim > 1}
            assert len(decays["params"]) + len(spared["params"]) == len(list(model.parameters()))

    def test_frozen_parameters_stay(self):
        """What requires no gradient is not trained; a network that is all frozen is refused."""
        model, before = network(), network()
        model[0].weight.requires_grad_(False)
        fit(model, None, toy(), recipe(epochs=1))
        assert torch.equal(model[0].weight, before[0].weight)
        assert not torch.equal(model[4].weight, before[4].weight)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
            fit(model, None, toy(), recipe())

    def test_schedules(self):
        """One cycle is PyTorch's, within rounding of its steps; cosine falls from lr to 0; constant stays."""
        steps = 1001
        one, cosine, constant = (recipe(schedule=name, lr=0.2) for name in ("onecycle", "cosine", "constant"))
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps, cycle_momentum=False)
        for step in range(steps - 1):
            assert abs(learning_rate(one, step / steps) - theirs.get_last_lr()[0]) < 1e-3
            optimizer.step()
            theirs.step()
        assert learning_rate(cosine, 0.0) == 0.2
        assert math.isclose(learning_rate(cosine, 0.5), 0.1)
        assert 0 < learning_rate(cosine, 0.999) < 1e-5
        assert learning_rate(constant, 0.7) == 0.2


class TestAugment:
    """Shift, flip and cutout."""

    CPU = torch.device("cpu")

    def draws(self, kinds, images, epoch=1):
        """Draws of one epoch, on the CPU."""
        return augment.draw(kinds, images, seed=0, epoch=epoch, device=self.CPU)

    @pytest.mark.parametrize("kinds", [("shift",), ("flip",), ("cutout",), ("flip", "shift", "cutout")])
    def test_it_is_what_a_loop_over_samples_would_do(self, kinds):
        """Each image equals, pixel for pixel, a slow version by the definition."""
        images = toy(n=30, side=16, channels=3).train.images
        order = torch.randperm(30)
        draws = self.draws(kinds, images)
        where = slice(10, 22)
        batch = augment.take(images, order[where], draws, where)
        for row, position in enumerate(range(10, 22)):
            image = images[order[position]].clone()
            if draws.shift is not None:
                dy, dx = draws.shift[position].tolist()
                padded = F.pad(image[None], (2, 2, 2, 2), mode="replicate")[0]
                image = padded[:, 2 + dy : 18 + dy, 2 + dx : 18 + dx]
            if draws.flip is not None and draws.flip[position]:
                # A flip mirrors where pixels come from, so a flipped image is shifted the other way.
                dx = 0 if draws.shift is None else dx
                source = images[order[position]].flip(2)
                padded = F.pad(source[None], (2, 2, 2, 2), mode="replicate")[0]
                dy = 0 if draws.shift is None else dy
                image = padded[:, 2 + dy : 18 + dy, 2 + dx : 18 + dx]
            if draws.cutout is not None:
                cy, cx = draws.cutout[position].tolist()
                image = image.clone()
                image[:, max(cy - 2, 0) : cy + 2, max(cx - 2, 0) : cx + 2] = 0
            assert torch.equal(batch[row], image), position

    def test_draws_cover_their_range(self):
        """Shifts reach an eighth of the side both ways, half of the images are flipped, epochs differ."""
        images = torch.zeros(4000, 1, 32, 24)
        draws = self.draws(("shift", "flip", "cutout"), images)
        assert draws.shift.amin(0).tolist() == [-4, -3]
        assert draws.shift.amax(0).tolist() == [4, 3]
        assert abs(draws.flip.float().mean() - 0.5) < 0.04
        assert draws.cutout.amax(0).tolist() == [31, 23]
        assert not torch.equal(draws.shift, self.draws(("shift",), images, epoch=2).shift)

    def test_nothing_asked_nothing_changed(self):
        """Without augmentation a batch is the images themselves, in channels_last memory."""
        images = toy().train.images
        assert self.draws((), images) is None
        batch = augment.take(images, torch.tensor([3, 1]))
        assert torch.equal(batch, images[[3, 1]])
        assert batch.is_contiguous(memory_format=torch.channels_last)

    def test_the_data_set_is_not_changed(self):
        """Cutout blanks the batch, never the images that it was taken from."""
        data = toy()
        before = data.train.images.clone()
        train(data=data, augment=("cutout",), epochs=1)
        assert torch.equal(data.train.images, before)

    def test_it_costs_under_a_tenth_of_a_step(self):
        """All three at once, for a batch of 128 images of 28x28, against a step of the small network."""
        images = torch.randn(1000, 1, 28, 28)
        labels, index = torch.arange(128) % 10, torch.randperm(1000)[:128]
        model = build_model(ModelConfig(), channels=1, classes=10, image_size=28, seed=0)
        optimizer = make_optimizer(model, recipe())
        draws = self.draws(("shift", "flip", "cutout"), images)

        def step():
            F.cross_entropy(model(augment.take(images, index)), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        def cost(function, times):
            function()
            spent = []
            for _ in range(times):
                began = time.perf_counter()
                function()
                spent.append(time.perf_counter() - began)
            return min(spent)

        plain = cost(lambda: augment.take(images, index), 50)
        augmented = cost(lambda: augment.take(images, index, draws, slice(0, 128)), 50)
        assert augmented - plain < 0.1 * cost(step, 10)


class TestEvaluate:
    """Loss and accuracy."""

    def test_it_is_the_plain_mean(self):
        """Over batches of any size it equals cross-entropy and accuracy of the whole split, without smoothing."""
        data, model = (
            toy(n=500, side=32),
            build_model(
                ModelConfig(options={"widths": (4,), "head": 4}), channels=2, classes=CLASSES, image_size=32, seed=0
            ),
        )
        loss, accuracy = evaluate(model, data.train, recipe(label_smoothing=0.3))
        with torch.no_grad():
            logits = model.eval()(data.train.images)
        assert math.isclose(loss, F.cross_entropy(logits, data.train.labels).item(), rel_tol=1e-5)
        assert accuracy == (logits.argmax(1) == data.train.labels).sum().item() / 500

    def test_it_leaves_no_trace(self):
        """Modes, mixed ones too, BatchNorm statistics, gradients and random state are as before."""
        model = network()
        model.train()
        model[1].eval()
        before = copy.deepcopy(model.state_dict())
        state = torch.get_rng_state()
        evaluate(model, toy().validation, recipe())
        assert [m.training for m in model] == [i != 1 for i in range(len(model))]
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.equal(torch.get_rng_state(), state)

    def test_layout_and_precision_are_those_asked_for(self):
        """channels_last batches reach the model as such, plain ones as such, and bf16 runs under autocast."""
        formats, types = [], []

        class Spy(nn.Module):
            def __init__(self):
                super().__init__()
                self.inside = nn.Linear(128, CLASSES)

            def forward(self, x):
                formats.append(x.is_contiguous())
                out = self.inside(x.flatten(1))
                types.append(out.dtype)
                return out

        for settings in ({"channels_last": True}, {"amp": "bf16"}):
            evaluate(Spy(), toy().validation, recipe(**settings))
            fit(Spy(), None, toy(), recipe(epochs=1, **settings))
        half = len(formats) // 2
        assert formats == [False] * half + [True] * half
        assert types == [torch.float32] * half + [torch.bfloat16] * half


class TestRun:
    """A whole run."""

    def test_settings_are_a_whole_run(self):
        """train_run loads, builds, attaches and fits; the model comes back without its engine, the data with it."""
        run = RunConfig.parse(
            {
                "data": {"subset": 200},
                "model": {"options": {"widths": [8, 8], "head": 16}},
                "train": {"epochs": 2, "channels_last": True},
                "engine": {"kind": "dropout2d", "p": 0.2},
            }
        )
        reports = []
        result, model, data = train_run(run, reports.append)
        assert timeless(result.history) == timeless(reports)
        assert reports[0].rates
        assert data.fingerprint == load_data(DataConfig(subset=200)).fingerprint
        assert not any(module._forward_hooks for module in model.modules())

    def test_the_engine_goes_when_training_fails(self):
        """A run that raises leaves no hook behind: nothing of it survives."""
        run = RunConfig.parse({"data": {"subset": 200}, "train": {"epochs": 1}})

        def stop(_):
            raise Stop

        with pytest.raises(Stop):
            train_run(run, stop)

    def test_complexity_reaches_the_engine(self, monkeypatch):
        """The engine is told D of these data."""
        told = {}

        def spy(model, config, **given):
            told.update(given)
            return attach(model, config, **given)

        monkeypatch.setattr("dropopt.training.run.attach", spy)
        _, _, data = train_run(RunConfig.parse({"data": {"subset": 200}, "train": {"epochs": 1}}))
        assert told["complexity"] == data.complexity != 0.5
        assert told["example"].shape[1:] == (1, 8, 8)

    def test_devices_that_are_not_here_are_refused(self):
        """A device is checked before anything is loaded, and what there is is told."""
        for name in ("gpu", "cuda:77", "meta"):
            with pytest.raises(ConfigError, match=r"device must be one of auto, cpu.*, got"):
                train_run(RunConfig.parse({"train": {"device": name}}))
