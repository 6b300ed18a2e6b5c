"""fit: it learns, uses every image, keeps its random streams independent, and informs the engine."""

import copy
import math
import pickle
import sys
import time

import pytest
import torch
from torch import nn
from toy import CLASSES, assert_same, network, recipe, timeless, toy, train

from dropopt.config import Baseline, EngineConfig, RunConfig
from dropopt.engine import attach
from dropopt.randomness import generator, global_stream
from dropopt.training import Dataset, DivergedError, Split, augment, evaluate, fit, load_data, train_run
from dropopt.training.results import smoothed
from dropopt.training.task import Task

pytestmark = pytest.mark.usefixtures("cache")


class TestLearning:
    """Training works."""

    def test_digits_are_learned_in_seconds(self):
        run, reports = RunConfig.parse({"train": {"epochs": 15, "batch_size": 64}}), []
        began = time.process_time()
        result, model, data = train_run(run, reports.append)
        assert time.process_time() - began < 30  # a few seconds on an idle machine
        assert timeless(result.history) == timeless(reports)
        assert reports[0].rates
        assert data.fingerprint == load_data(run.data).fingerprint
        assert result.best_val_accuracy >= 0.97
        assert result.best_epoch > 1
        loss, accuracy = evaluate(model, data.validation, run.train)
        assert accuracy == result.best_val_accuracy
        assert math.isclose(loss, result.best_val_loss, rel_tol=1e-6)
        assert not any(module._forward_hooks for module in model.modules())

    def test_the_test_split_is_not_used(self):
        data, poisoned = toy(), toy()
        poisoned.test.images.fill_(torch.nan)
        poisoned.test.labels.fill_(-1)
        assert_same(train(EngineConfig(), data), train(EngineConfig(), poisoned))

    @pytest.mark.parametrize(("by_metric", "best"), [(False, 4), (True, 6)])
    def test_the_best_epoch_is_kept(self, by_metric, best):
        """The model ends with the weights of the epoch whose smoothed loss, or error, was lowest, not with the last."""
        config = recipe(epochs=6, lr=0.5, schedule="constant", smooth=0.3, seed=1)
        model, seen = network(seed=1), []
        task = Task(by_metric=by_metric)
        result = fit(model, None, toy(), config, lambda _: seen.append(copy.deepcopy(model.state_dict())), task=task)
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
        results = []
        for training in (True, False):
            model = network().train(training)
            results.append((fit(model, None, toy(), recipe(epochs=2)), model.state_dict()))
        assert_same(*results)


class Poisoned(nn.Module):
    """Logits that are NaN or infinite in one call."""

    def __init__(self, call, value):
        super().__init__()
        self.inside, self.call, self.calls, self.value = nn.Linear(128, CLASSES), call, 0, value

    def forward(self, x):
        """(N, C, H, W) -> (N, classes)."""
        self.calls += 1
        out = self.inside(x.flatten(1))
        return out.index_fill(1, torch.tensor([1]), self.value) if self.calls == self.call else out


@pytest.mark.parametrize(
    ("call", "value", "what", "epoch", "step"),
    [
        (6 + 1 + 3, torch.nan, "training loss is nan", 2, 3),  # after six steps and one batch of validation
        (2, -torch.inf, "training loss is inf", 1, 2),  # a class has no probability
        (7, torch.nan, "validation loss is nan", 1, 6),
        (7, -torch.inf, "validation loss is inf", 1, 6),
    ],
)
def test_an_error_names_epoch_and_step(call, value, what, epoch, step):
    """Although a training loss is looked at when its epoch ends. The error crosses processes."""
    reports = []
    with pytest.raises(DivergedError, match=f"{what} at epoch {epoch}, step {step};") as caught:
        fit(Poisoned(call, value), None, toy(), recipe(), reports.append)
    assert [report.epoch for report in reports] == [*range(1, epoch)]
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (twin.epoch, twin.step, str(twin)) == (epoch, step, str(caught.value))


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

    def test_torchs_random_state_is_restored(self):
        torch.manual_seed(77)
        expected = torch.rand(3)
        torch.manual_seed(77)
        train(EngineConfig(), epochs=1)
        with pytest.raises(DivergedError):
            train(lr=1e30, schedule="constant")
        assert torch.equal(torch.rand(3), expected)
