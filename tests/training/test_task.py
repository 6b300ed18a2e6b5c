"""Tasks other than image classification: any shape, a loss and a metric of one's own, PyTorch data sets and loaders."""

from __future__ import annotations

import re
import sys

import other_tasks
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from dropopt.config import ConfigError, RunConfig, TaskConfig, TrainConfig
from dropopt.training import Dataset, Split, Task, evaluate, load_data, prepare, task_of, train_run
from dropopt.training.data.read_torch import read_torch
from dropopt.training.results import smoothed
from dropopt.training.task import LOSSES, accuracy

evaluate_module = sys.modules["dropopt.training.evaluate"]
TRAIN = {"epochs": 3, "batch_size": 16, "lr": 0.05, "device": "cpu"}


def own(data, model, **task):
    """A run with functions of ``other_tasks``."""
    names = {"data": {"name": f"other_tasks:{data}"}, "model": {"name": f"other_tasks:{model}"}}
    return RunConfig.parse({**names, "train": TRAIN, "task": task})


def test_signals_with_class_numbers():
    run = own("signals", "signal_network")
    assert prepare(run).sites["auto"] == ["1"]
    result, _, data = train_run(run)
    assert (len(data.train), len(data.validation), len(data.test)) == (32, 20, 8)
    assert data.train.images.shape[1:] == (2, 30)
    assert torch.equal(data.validation.images, other_tasks.signals()[1].tensors[0])
    assert data.classes == ("0", "1", "2")
    assert 0 < data.complexity < 1
    assert result.best_val_accuracy > 0.4  # chance: 0.33


def test_regression_by_a_metric_to_minimise():
    """The metric is that of all outputs; epochs are judged by it; loss and metric are functions of the user."""
    task = {"loss": "other_tasks:halved", "metric": "other_tasks:worst", "direction": "minimize", "objective": "metric"}
    run = own("regression", "image_network", **task)
    prepare(run)
    result, model, data = train_run(run)
    assert data.classes == ()
    assert data.complexity == 0.5
    outputs = model.eval()(data.validation.images)
    for found, function in ((result.best_val_accuracy, "worst"), (result.best_val_loss, "halved")):
        expected = getattr(other_tasks, function)(outputs, data.validation.labels).item()
        assert found == pytest.approx(expected, rel=1e-5)
    costs = smoothed([report.val_accuracy for report in result.history], run.train.smooth)
    assert [report.objective for report in result.history] == costs
    assert run.task.value == "worst"


def test_segmentation_by_a_metric_to_maximise():
    """Cross-entropy and pixel accuracy are defined for masks; a metric to maximise is judged by 1 - metric."""
    result, model, data = train_run(own("masks", "mask_network"))
    pixels = (model.eval()(data.validation.images).argmax(1) == data.validation.labels).double().mean().item()
    assert result.best_val_accuracy == pytest.approx(pixels)
    run = own("masks", "mask_network", metric="other_tasks:overlap", objective="metric")
    result, *_ = train_run(run)
    costs = smoothed([1 - report.val_accuracy for report in result.history], run.train.smooth)
    assert [report.objective for report in result.history] == costs
    assert run.task.value == "1 - overlap"


@pytest.mark.parametrize("importance", ["gradient", "lrp", "composite"])
def test_pixels_without_a_class_are_ignored(importance):
    """They have the number -100, as in torch. Loss and accuracy are means over the other pixels of the whole split.

    A batch without any other pixel trains nothing, and probes explain no output there.
    """
    engine = {"importance": importance, "allocation": "importance", "r0": 0.4, "alpha": 0}
    train = {**TRAIN, "epochs": 1, "batch_size": 1, "label_smoothing": 0.1}
    run = RunConfig.parse(own("partial_masks", "mask_network").model_dump() | {"engine": engine, "train": train})
    result, model, data = train_run(run)
    outputs, labels = model.eval()(data.validation.images), data.validation.labels
    known = labels != -100
    assert not known.flatten(1).any(1).all()
    assert result.best_val_loss == pytest.approx(F.cross_entropy(outputs, labels).item(), rel=1e-5)
    assert result.best_val_accuracy == pytest.approx((outputs.argmax(1) == labels)[known].double().mean().item())


def test_a_batch_of_pixels_without_a_class_does_not_count():
    """The mean is over the pixels of all batches with a class."""
    draw = torch.Generator().manual_seed(0)
    outputs = torch.randn(5000, 2, 4, 4, generator=draw)
    labels = torch.randint(0, 2, (5000, 4, 4), generator=draw)
    size = evaluate_module._batch_size(outputs, torch.device("cpu"))
    labels[:size] = -100
    loss, _ = evaluate(torch.nn.Identity(), Split(outputs, labels), TrainConfig(device="cpu"), Task())
    assert 0 < size < 4000
    assert loss == pytest.approx(F.cross_entropy(outputs, labels).item(), rel=1e-5)


def test_volumes_with_labels_that_do_not_exclude_each_other():
    """A built-in loss; the metric may be the loss itself."""
    run = own("volumes", "volume_network", loss="binary_cross_entropy_with_logits", metric="loss")
    prepare(run)
    result, _, data = train_run(run)
    assert data.outputs == 3
    assert all(report.val_accuracy == report.val_loss for report in result.history)
    assert result.history[-1].train_loss < result.history[0].train_loss


@pytest.mark.parametrize("model", ["other_tasks:image_network", "small"])
def test_one_logit_tells_two_classes_apart(model):
    """With binary cross-entropy a network has one output; loss and accuracy are those of scikit-learn."""
    run = own("bright", "image_network", loss="binary_cross_entropy_with_logits")
    run = run.model_copy(update={"model": run.model.model_copy(update={"name": model})})
    prepare(run)
    result, network, data = train_run(run)
    labels = data.validation.labels.numpy()
    with torch.no_grad():
        logits = network.eval()(data.validation.images)
    assert logits.shape == (len(labels), 1)
    bright = torch.sigmoid(logits[:, 0]).double().numpy()
    assert result.best_val_accuracy == accuracy_score(labels, bright > 0.5)
    assert result.best_val_loss == pytest.approx(log_loss(labels, bright), rel=1e-4)


def test_accuracy_of_one_logit_for_each_target():
    """A logit above 0 says 1, also for several labels of a sample; the largest of several logits says a class."""
    targets = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert accuracy(torch.tensor([[-2.0, 3.0], [-1.0, 4.0]]), targets) == 0.75
    assert accuracy(torch.tensor([[-2.0], [3.0]]), torch.tensor([0, 1])) == 1
    assert accuracy(torch.tensor([-2.0, -3.0]), torch.tensor([0, 1])) == 0.5
    assert accuracy(torch.tensor([[-2.0, -3.0], [1.0, 2.0]]), torch.tensor([0, 1])) == 1


@pytest.mark.parametrize(
    ("outputs", "targets", "given"),
    [
        (torch.rand(3, 1), torch.tensor([0.2, 1.0, 3.0]), r"outputs (3, 1) and float32 targets (3,)"),
        (torch.rand(3, 4), torch.tensor([0.0, 1.0, 1.0]), r"outputs (3, 4) and float32 targets (3,)"),
        (torch.rand(3, 4), torch.zeros(3, 5), r"outputs (3, 4) and float32 targets (3, 5)"),
        ((torch.rand(3, 4),), torch.tensor([0, 1, 1]), r"tuple and int64 targets (3,)"),
    ],
)
def test_an_accuracy_that_would_mean_nothing_is_refused(outputs, targets, given):
    with pytest.raises(
        ConfigError, match=f"accuracy takes logits .* got {re.escape(given)}; give another metric: loss"
    ):
        accuracy(outputs, targets)


@pytest.mark.parametrize("loss", ["mse_loss", "l1_loss"])
def test_a_regression_without_a_metric_has_its_loss(loss):
    assert TaskConfig.parse({"loss": loss}) == TaskConfig(loss=loss) == TaskConfig(loss=loss, metric="loss")
    assert TaskConfig(loss=loss, metric="accuracy").metric == TaskConfig().metric == "accuracy"


def remarks_about(targets, loss="mse_loss"):
    """What is said of the targets of a regression."""
    split = Split(torch.zeros(len(targets), 2), targets)
    return task_of(TaskConfig(loss=loss, metric="loss")).remarks(Dataset("prices", (), split, split, split))


@pytest.mark.parametrize(
    ("centre", "scale", "odd"),
    [
        *[(0, 1, False), (3, 1, False), (40, 15, False), (0.5, 0.3, False), (0, 0.1, False), (7, 0, False)],
        *[(1000, 1, True), (-300_000, 20_000, True), (0, 100, True), (0, 0.001, True)],
    ],
)
def test_targets_of_a_regression_far_from_0_or_1_are_noted(centre, scale, odd):
    """With what to do; the targets that are then returned are not noted, nor those of another loss."""
    standard = torch.linspace(-1.7, 1.7, 2000).double()
    standard /= standard.std(correction=0)
    first = (centre + scale * standard).float()
    for targets in (first, torch.stack([standard.float(), first], 1)):
        found = remarks_about(targets)
        assert len(found) == odd
        assert all(f" and the standard deviation {scale}, from" in one for one in found)
        for one in found:
            advice = one.partition("; standardise the targets: return ")[2]
            assert not remarks_about(eval(advice, {"y": targets}))
    assert not remarks_about(first, "binary_cross_entropy_with_logits")


@pytest.mark.parametrize("shape", [(2000,), (2000, 1), (2000, 2), (500, 2, 4), (500, 2, 4, 4), (500, 1, 4, 4)])
def test_the_advice_standardises_each_number_of_a_target(shape):
    """With one mean for all, numbers of several scales would be noted again after the advice was followed."""
    targets = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if len(shape) > 1:
        targets *= torch.tensor([1e5, 50.0])[: shape[1]].reshape(-1, *[1] * (len(shape) - 2))
    else:
        targets *= 1e5
    (found,) = remarks_about(targets)
    assert not remarks_about(eval(found.partition("return ")[2], {"y": targets}))


def test_masks_as_one_hot_vectors_have_no_scale():
    """Nearly all of a mask may be background, whose mean is then far from 0 in units of its deviation."""
    mask = torch.zeros(50, 16, 16, dtype=torch.long)
    mask[:, 3, 3] = 1
    assert not remarks_about(torch.nn.functional.one_hot(mask).movedim(-1, 1).float())


def test_binary_cross_entropy_of_class_numbers_above_1_is_refused():
    run = own("signals", "signal_network", loss="binary_cross_entropy_with_logits")
    with pytest.raises(
        ConfigError, match="takes targets from 0 to 1, those of other_tasks:signals are from 0 to 2; for"
    ):
        prepare(run)


def test_image_data_sets_take_the_path_of_all_images(monkeypatch):
    """Images of PyTorch data sets are normalised and keep the names of their classes, also behind a subset."""
    whole = TensorDataset(torch.arange(30.0).view(30, 1, 1, 1).expand(30, 3, 4, 4), torch.arange(30) % 2)
    whole.classes = ("cat", "dog")
    monkeypatch.setattr(other_tasks, "photographs", lambda: torch.utils.data.Subset(whole, range(30)), False)
    monkeypatch.setattr(other_tasks.photographs, "__module__", "other_tasks")
    data = load_data(RunConfig.parse({"data": {"name": "other_tasks:photographs"}}).data)
    assert data.classes == ("cat", "dog")
    assert data.train.images.mean().abs() < 1e-5
    assert sum(map(len, data.splits().values())) == 30


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({}, r"targets that are no class numbers, .* task=\{'loss': 'mse_loss', 'metric': 'loss'\}"),
        ({"loss": "mse"}, r"task.loss 'mse' is unknown; known: cross_entropy, mse_loss"),
        ({"loss": "mse_loss", "metric": "f1"}, "task.metric 'f1' is unknown; known: accuracy, loss"),
        ({"loss": "other_tasks:nothing"}, "has no function 'nothing'"),
    ],
)
def test_what_cannot_be_a_task_is_refused_before_the_first_trial(task, message):
    with pytest.raises(ConfigError, match=message):
        prepare(own("regression", "image_network", **task))


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "message"),
    [
        ("cross_entropy", (4, 3), torch.zeros(4, 1).long(), r"got \(4, 3\) and \(4, 1\); give .* as y.squeeze\(1\)$"),
        ("cross_entropy", (4, 3, 5), torch.zeros(4).long(), r"got \(4, 3, 5\) and \(4,\)$"),
        (
            "mse_loss",
            (4, 3),
            torch.zeros(4).long(),
            r"got \(4, 3\) and \(4,\); whole numbers count as classes, .* floats$",
        ),
        ("mse_loss", (4, 3), torch.zeros(4), r"one shape, got \(4, 3\) and \(4,\)$"),
    ],
)
def test_targets_of_another_shape_are_refused_with_advice(loss, outputs, targets, message):
    """Class numbers of shape (N, 1), and whole numbers as the targets of a regression, are what people often give."""
    with pytest.raises(ConfigError, match=message):
        LOSSES[loss](torch.zeros(outputs), targets)


@pytest.mark.parametrize("importance", ["gradient", "lrp", "composite"])
@pytest.mark.parametrize(
    ("data", "model", "loss"),
    [
        ("regression", "image_network", "mse_loss"),
        ("volumes", "volume_network", "binary_cross_entropy_with_logits"),
    ],
)
def test_importances_by_a_probe_for_other_tasks(data, model, loss, importance):
    engine = {"importance": importance, "allocation": "importance", "r0": 0.4, "alpha": 0}
    run = own(data, model, loss=loss, metric="loss").model_dump() | {"engine": engine, "train": TRAIN | {"epochs": 1}}
    result, *_ = train_run(RunConfig.parse(run))
    assert len(result.history) == 1


def test_augmentation_needs_classes():
    run = own("regression", "image_network", loss="mse_loss", metric="loss")
    with pytest.raises(
        ConfigError, match=r"^augment changes images but not their targets, so it needs classes; remove it$"
    ):
        prepare(RunConfig.parse(run.model_dump() | {"train": {**TRAIN, "augment": ["flip"]}}))


def test_a_loss_gets_outputs_in_single_precision():
    """As with ``amp``; whole numbers and other structures are passed on."""
    seen = []
    task = Task(lambda outputs, targets: seen.append(outputs) or torch.zeros(()))
    for outputs in (torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.int64), {"a": 1}):
        task.training_loss(outputs, torch.zeros(2), 0.0)
    assert (seen[0].dtype, seen[1].dtype, seen[2]) == (torch.float32, torch.int64, {"a": 1})
    outputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name, loss in LOSSES.items():
        targets = torch.arange(50) % 3 if name == "cross_entropy" else torch.linspace(0, 1, 150).view(50, 3)
        assert torch.equal(loss(outputs, targets), getattr(F, name)(outputs.float(), targets)), name


@pytest.mark.parametrize("metric", [None, accuracy, lambda outputs, targets: 0.5])
def test_label_smoothing_is_for_training_alone(metric):
    """Whatever the metric is, and for targets of any shape."""
    draw = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(40, 3, 2, 2, generator=draw), torch.randint(0, 3, (40, 2, 2), generator=draw)
    task, config = Task(metric=metric), TrainConfig(device="cpu", label_smoothing=0.3)
    expected = F.cross_entropy(outputs, labels, label_smoothing=0.3)
    assert torch.equal(task.training_loss(outputs, labels, config.label_smoothing), expected)
    loss, _ = evaluate(torch.nn.Identity(), Split(outputs, labels), config, task)
    assert loss == pytest.approx(F.cross_entropy(outputs, labels).item(), rel=1e-6)


def test_the_engine_sees_fractions_of_which_more_is_better():
    """Other metrics are no accuracy: those to minimise, those outside [0, 1], and the loss."""
    assert [Task().performance(value) for value in (-0.1, 0.0, 0.3, 1.0, 1.1)] == [None, 0.0, 0.3, 1.0, None]
    assert Task(maximize=False).performance(0.3) is None
    assert Task(metric=None).performance(0.3) is None


def test_losses_do_not_broadcast():
    """Outputs (N, 1) and targets (N,) agree; other shapes are an error instead of a silent outer product."""
    loss = LOSSES["mse_loss"]
    outputs, targets = torch.arange(4.0).view(4, 1), torch.zeros(4)
    assert loss(outputs, targets) == F.mse_loss(outputs[:, 0], targets)
    with pytest.raises(ConfigError, match=r"a tensor with one number, the mean over the batch; got shape \(4, 1\)"):
        Task(lambda y, t: y).training_loss(outputs, targets, 0.0)


def test_the_metric_sees_all_outputs_at_once():
    """A metric that does not average over batches is right, and so is one of a network with two outputs."""
    split = Split(torch.arange(3000.0).view(3000, 1, 1, 1), torch.zeros(3000))
    task = Task(lambda y, t: y["a"].mean(), lambda y, t: y["a"].max() - y["b"].min())

    class Two(torch.nn.Module):
        def forward(self, x):
            return {"a": x.flatten(1), "b": x.flatten(1) - 1}

    run = RunConfig.parse({"train": {"device": "cpu"}})
    assert evaluate(Two(), split, run.train, task) == (pytest.approx(1499.5), 3000)


def test_the_default_task_is_classification():
    assert task_of(TaskConfig()) == Task()
    assert Task().is_plain


@pytest.mark.parametrize("objective", ["loss", "metric"])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("metric", ["accuracy", "loss", "other_tasks:worst"])
def test_settings_and_task_agree_on_what_is_minimised(metric, direction, objective):
    """The loss, the metric, or 1 - metric if a higher one is better. Where the metric is the loss, they are equal."""
    config = TaskConfig(metric=metric, direction=direction, objective=objective)
    given = (0.7, 0.7) if metric == "loss" else (0.7, 0.2)
    expected = 0.7 if "loss" in (metric, objective) else 0.8 if direction == "maximize" else 0.2
    assert config.cost(*given, config.judged_by) == task_of(config).cost(*given) == expected


@pytest.mark.parametrize("names", [("train", "validation", "test"), ("train", "test"), ("train",)])
def test_splits_of_torch_keep_their_names(names):
    """Each data set becomes the split of its name; those that are not given are None."""
    counts = {"train": 4, "validation": 2, "test": 3}
    given = {name: TensorDataset(torch.rand(counts[name], 1, 2, 2), torch.arange(counts[name]) % 2) for name in names}
    source = read_torch("mine", given)
    for name in counts:
        found = getattr(source, name)
        assert (found and found.labels.tolist()) == (given[name].tensors[1].tolist() if name in names else None)
