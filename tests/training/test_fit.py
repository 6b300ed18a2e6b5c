"""fit: it learns, uses every image, keeps its random streams independent, and informs the engine."""

import copy
import math
import pickle
import sys
import time
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from toy import CLASSES, Stop, assert_same, network, recipe, stop_after, toy, train

from dropopt.config import Baseline, EngineConfig, RunConfig
from dropopt.engine import attach
from dropopt.randomness import generator, global_stream
from dropopt.training import Dataset, DivergedError, Split, augment, evaluate, fit, train_run
from dropopt.training.results import smoothed
from dropopt.training.task import Task

pytestmark = pytest.mark.usefixtures("cache")


def fake_engine(update_every="epoch", needs_probe=False):
    """It does nothing. Its only rate is the number of its updates so far."""
    engine = Mock(spec=["config", "needs_probe", "probe", "rates", "step", "update_every", "watch", "weights"])
    engine.config, engine.needs_probe = EngineConfig(update_every=update_every), needs_probe
    engine.update_every = None if update_every == "epoch" else update_every
    engine.rates.side_effect = lambda: [{"site": "a", "applied": float(engine.step.call_count)}]
    engine.weights.return_value = {"adaptive": 1.0}
    return engine


class TestLearning:
    """Training works."""

    def test_digits_are_learned_in_seconds(self):
        """With the default engine, 15 epochs reach 0.97 on validation, and so do the weights that are kept."""
        run = RunConfig.parse({"train": {"epochs": 15, "batch_size": 64}})
        began = time.process_time()
        result, model, data = train_run(run)
        assert time.process_time() - began < 30  # a few seconds on an idle machine
        assert result.best_val_accuracy >= 0.97
        assert result.best_epoch > 1
        loss, accuracy = evaluate(model, data.validation, run.train)
        assert accuracy == result.best_val_accuracy
        assert math.isclose(loss, result.best_val_loss, rel_tol=1e-6)
        assert not any(module._forward_hooks for module in model.modules())

    def test_the_test_split_is_not_used(self):
        """NaN in every test image and invalid test labels change no bit of the training."""
        data, poisoned = toy(), toy()
        poisoned.test.images.fill_(torch.nan)
        poisoned.test.labels.fill_(-1)
        assert_same(train(EngineConfig(), data), train(EngineConfig(), poisoned))

    @pytest.mark.parametrize(("by_metric", "best"), [(False, 4), (True, 6)])
    def test_the_best_epoch_is_kept(self, tmp_path, by_metric, best):
        """The model ends with the weights of the epoch whose smoothed loss, or error, was lowest, not with the last.

        This holds for a training that continues from a checkpoint too.
        """
        config = recipe(epochs=6, lr=0.5, schedule="constant", smooth=0.3, seed=1)
        options = {"task": Task(by_metric=by_metric), "checkpoint": tmp_path / "checkpoint.pt"}
        with pytest.raises(Stop):
            fit(network(seed=1), None, toy(), config, stop_after(4), **options)
        again = network(seed=1)
        continued = fit(again, None, toy(), config, **options)

        model, seen = network(seed=1), []
        options.pop("checkpoint")
        result = fit(model, None, toy(), config, lambda _: seen.append(copy.deepcopy(model.state_dict())), **options)
        assert_same((result, model.state_dict()), (continued, again.state_dict()))
        losses = smoothed([report.val_loss for report in result.history], 0.3)
        errors = smoothed([1 - report.val_accuracy for report in result.history], 0.3)
        objective = errors if by_metric else losses
        assert [report.smoothed_loss for report in result.history] == losses
        assert [report.objective for report in result.history] == objective
        assert (result.smoothed_loss, result.objective) == (losses[-1], objective[-1])
        assert result.best_epoch == 1 + objective.index(min(objective)) == best
        for name, value in model.state_dict().items():
            assert torch.equal(value, seen[best - 1][name])
        kept = result.history[best - 1]
        assert (result.best_val_loss, result.best_val_accuracy) == (kept.val_loss, kept.val_accuracy)

    def test_the_first_of_equal_epochs_is_the_best(self):
        """A network that never changes is best in its first epoch, and patience counts from there."""

        class Constant(nn.Module):
            def __init__(self):
                super().__init__()
                self.unused = nn.Parameter(torch.ones(1))

            def forward(self, x):
                return x.new_zeros(len(x), CLASSES) + 0 * self.unused

        began = time.perf_counter()
        result = fit(Constant(), None, toy(), recipe(epochs=30, patience=3, smooth=0.0))
        assert (result.best_epoch, len(result.history)) == (1, 4)
        assert 0 < sum(report.seconds for report in result.history) < time.perf_counter() - began
        assert result.best_val_loss == pytest.approx(math.log(CLASSES))

    @pytest.mark.parametrize(
        ("n", "size", "expected"),
        [
            (97, 16, [16] * 5 + [17]),
            (98, 16, [16] * 6 + [2]),
            (96, 16, [16] * 6),
            (7, 50, [7]),
            (5, 1, [1] * 5),
            (5, 2, [2, 3]),
        ],
    )
    def test_every_image_is_used_once_per_epoch(self, n, size, expected):
        """Batches have their size, and the rest is a batch of its own; a single image joins the batch before it."""
        data = toy(n=n)
        seen = []
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES))
        model.register_forward_pre_hook(lambda m, given: seen.append(given[0].clone()) if m.training else None)
        fit(model, None, data, recipe(epochs=1, batch_size=size))
        assert [len(batch) for batch in seen] == expected
        shown, had = ([tuple(image.flatten().tolist()) for image in x] for x in (torch.cat(seen), data.train.images))
        assert sorted(shown) == sorted(had)

    def test_weights_have_the_layout_of_the_recipe(self):
        """channels_last is for images; networks of other samples are left as they are."""
        for wanted in (True, False):
            model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES))
            fit(model, None, toy(), recipe(epochs=1, channels_last=wanted))
            assert model[0].weight.is_contiguous(memory_format=torch.channels_last) is wanted
        labels = torch.arange(40) % CLASSES
        split = Split(torch.randn(40, 2, 4, 4, 4), labels)
        volumes = Dataset("volumes", tuple("abcd"), split, split, split)
        model = nn.Sequential(nn.Conv3d(2, 8, 3), nn.Flatten(), nn.Linear(64, CLASSES))
        fit(model, None, volumes, recipe(epochs=1, channels_last=True))
        assert model[0].weight.is_contiguous()

    def test_a_model_in_eval_mode_is_trained(self):
        """The mode in which the model is passed does not matter."""
        results = []
        for training in (True, False):
            model = network().train(training)
            results.append((fit(model, None, toy(), recipe(epochs=2)), model.state_dict()))
        assert_same(*results)


class TestDivergence:
    """Losses that are not finite."""

    class Poisoned(nn.Module):
        """Logits that are NaN or infinite in one call."""

        def __init__(self, call, value=torch.nan):
            super().__init__()
            self.inside, self.call, self.calls, self.value = nn.Linear(128, CLASSES), call, 0, value

        def forward(self, x):
            """(N, C, H, W) -> (N, classes)."""
            self.calls += 1
            out = self.inside(x.flatten(1))
            return out.index_fill(1, torch.tensor([1]), self.value) if self.calls == self.call else out

    def test_the_error_names_epoch_and_step(self):
        """A NaN in step 3 of epoch 2 is reported as such, although it is found at the end of the epoch."""
        model, reports = self.Poisoned(call=6 + 1 + 3), []  # six steps and one batch of validation, then three steps
        with pytest.raises(DivergedError, match="training loss is nan at epoch 2, step 3") as caught:
            fit(model, None, toy(), recipe(), reports.append)
        assert [report.epoch for report in reports] == [1]
        assert (caught.value.epoch, caught.value.step) == (2, 3)

    def test_a_validation_loss_that_is_not_finite(self):
        """A validation loss that is not finite is an error as well."""
        with pytest.raises(DivergedError, match="validation loss is nan at epoch 1, step 6;"):
            fit(self.Poisoned(call=7), None, toy(), recipe())
        for call, what in ((7, "validation loss is inf at epoch 1"), (2, "training loss is inf at epoch 1, step 2")):
            with pytest.raises(DivergedError, match=what):  # one class has no probability
                fit(self.Poisoned(call, -torch.inf), None, toy(), recipe())

    def test_the_error_crosses_processes(self):
        """Pickling keeps its epoch, step and message."""
        error = DivergedError(2, 5, math.inf)
        twin = pickle.loads(pickle.dumps(error))
        assert (twin.epoch, twin.step, str(twin)) == (2, 5, str(error))


class TestStreams:
    """Random streams are independent."""

    @pytest.mark.parametrize("engine", [Baseline(kind="none"), EngineConfig(r0=0.6, pattern="element")])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_order_and_augmentation_depend_on_seed_and_epoch(self, seed, engine):
        """Every batch is what the streams named for seed and epoch give, whatever is dropped."""
        kinds, images, model, seen = ("shift", "flip", "cutout"), toy().train.images, network(), []
        model.register_forward_pre_hook(lambda m, given: seen.append(given[0].clone()) if m.training else None)
        with attach(model, engine, example=images[:2], complexity=0.5) as attached:
            seen.clear()
            fit(model, attached, toy(), recipe(epochs=2, augment=kinds, seed=seed))
        assert len(seen) == 12
        for epoch in (1, 2):
            order = torch.randperm(90, generator=generator(seed, "order", epoch))
            draws = augment.draw(kinds, images, seed=seed, epoch=epoch, device=torch.device("cpu"))
            for step in range(6):
                where = slice(16 * step, 16 * step + 16)
                assert torch.equal(seen[6 * (epoch - 1) + step], augment.take(images, order[where], draws, where))

    @pytest.mark.parametrize("seed", [0, 7])
    def test_masks_are_drawn_from_a_stream_named_for_the_seed(self, monkeypatch, seed):
        """The first training step finds the device's global generator at the start of the stream ``dropout``."""
        with global_stream(seed, "dropout"):
            expected = torch.rand(3)
        given, drawn, model = [], [], network()

        def recorded(*arguments, **options):
            given.append((*arguments, options))
            return global_stream(*arguments)

        monkeypatch.setattr(sys.modules["dropopt.training.fit"], "global_stream", recorded)
        model.register_forward_pre_hook(lambda m, given: drawn.append(torch.rand(3)))
        fit(model, None, toy(), recipe(epochs=1, seed=seed, device="cpu"))
        assert given == [(seed, "dropout", {"device": torch.device("cpu")})]
        assert torch.equal(drawn[0], expected)

    def test_the_same_seed_gives_the_same_training(self):
        """Two runs agree bit for bit whatever was drawn before; another seed gives a different run."""
        first = train(EngineConfig())
        torch.rand(5)
        assert_same(first, train(EngineConfig()))
        other, _ = train(EngineConfig(), seed=1)
        assert other.history[0].train_loss != first[0].history[0].train_loss

    def test_torchs_random_state_is_restored(self):
        """Training seeds torch's global stream for the masks and restores it, even after a failure."""
        torch.manual_seed(77)
        expected = torch.rand(3)
        torch.manual_seed(77)
        train(EngineConfig(), epochs=1)
        with pytest.raises(DivergedError):
            train(lr=1e30, schedule="constant")
        assert torch.equal(torch.rand(3), expected)


class TestEngine:
    """What the engine is passed, and when."""

    def test_after_each_epoch_with_its_metrics(self):
        """watch comes first, then one step per epoch with the epochs completed and the epoch's metrics."""
        engine = fake_engine()
        result = fit(network(), engine, toy(), recipe())
        assert engine.method_calls[0][0] == "watch"
        assert isinstance(engine.watch.call_args.args[0], torch.optim.SGD)
        told = [one.kwargs for one in engine.step.call_args_list]
        assert [t["epoch"] for t in told] == [1, 2, 3, 4]
        assert {t["epochs"] for t in told} == {4}
        for signals, report in zip(told, result.history, strict=True):
            for name in ("val_loss", "train_loss", "val_accuracy"):
                assert signals[name] == getattr(report, name)

    def test_every_n_steps(self):
        """With update_every 4 and 6 steps per epoch, rates are updated after steps 4, 8, 12, ... and each epoch."""
        engine = fake_engine(update_every=4)
        fit(network(), engine, toy(), recipe(epochs=2))
        told = [one.kwargs for one in engine.step.call_args_list]
        assert [round(t["epoch"] * 6) for t in told] == [4, 6, 8, 12]
        assert ["val_loss" in t for t in told] == [False, True, False, True]

    def test_a_probe_sees_a_training_batch_before_each_step(self):
        """If importances need labels, every update is preceded by the last training batch."""
        data, engine = toy(), fake_engine(update_every=5, needs_probe=True)
        fit(network(), engine, data, recipe(epochs=2))
        kinds = [name for name, *_ in engine.method_calls if name in ("watch", "probe", "step")]
        assert kinds == ["watch"] + ["probe", "step"] * 4
        for shown in engine.probe.call_args_list:
            for image, label in zip(*shown.args, strict=True):
                found = (data.train.images == image).flatten(1).all(1).nonzero().item()
                assert data.train.labels[found] == label

    def test_reports_carry_the_rates_in_force(self):
        """Rates and weights of a report are those with which the epoch ended, before the update that follows."""
        result = fit(network(), fake_engine(), toy(), recipe(epochs=2))
        assert [report.rates[0]["applied"] for report in result.history] == [0.0, 1.0]
        assert result.history[0].weights == {"adaptive": 1.0}
