"""What is refused in training and in data that no other file of tests reaches, and smaller functions of both."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from samples import folder, images, npz, refused
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from toy import network, recipe, toy

from dropopt.config import ConfigError, TrainConfig
from dropopt.training import Dataset, DivergedError, Split, evaluate, fit
from dropopt.training import augment as augmentation
from dropopt.training.data.from_source import resize
from dropopt.training.data.read_image import read_image
from dropopt.training.data.reading import reader_of
from dropopt.training.data.stream import Stream, sample_of
from dropopt.training.data.system_files import is_system, remark
from dropopt.training.evaluate import _batch_size, batches_of_outputs, logits_of
from dropopt.training.feed import feed_of
from dropopt.training.results import TrainResult
from dropopt.training.task import LOSSES, Task, joined

CPU = torch.device("cpu")
DATA = TensorDataset(torch.arange(30.0).view(10, 3), torch.arange(10) % 2)


def message(function, *arguments, error=ConfigError, **options):
    """The message with which a call is refused."""
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_augmentation_needs_images_and_an_order():
    said = "augment is for images (N, C, H, W), the samples are (4, 2, 9); remove it"
    assert message(augmentation.draw, ("flip",), torch.zeros(4, 2, 9), seed=0, epoch=1, device=CPU) == said
    said = "augment is for samples of one image, and these have several inputs; remove it"
    assert message(augmentation.draw, ("flip",), (torch.zeros(4, 2),), seed=0, epoch=1, device=CPU) == said
    stream = Stream(reader_of("a", DataLoader(DATA, batch_sampler=[[0, 1]])), lambda batch: batch, Split(*DATA.tensors))
    said = "augment is not for a loader with batches of its own; augment in its data set"
    assert message(feed_of, stream, TrainConfig(augment=("flip",)), CPU) == said
    feed = feed_of(stream, TrainConfig(), CPU)
    assert feed.steps == 1
    assert [labels.tolist() for _, labels in feed.epoch(1)] == [[0, 1]]


def test_losses_and_metrics_that_give_no_number():
    said = "task.loss mse_loss takes a model that returns a tensor, not tuple"
    assert message(LOSSES["mse_loss"], (1, 2), torch.zeros(2)) == said
    for value in ("text", torch.zeros(2), None):
        task = Task(metric=lambda y, t, value=value: value)
        assert message(task.measured, 0.5, 1, 2) == f"task.metric must return a number, got {value!r:.100}"
    assert Task(metric=lambda y, t: torch.tensor([2.5])).measured(0.5, 1, 2) == 2.5
    assert Task(metric=None).measured(0.5, 1, 2) == 0.5
    failed = message(Task(metric=lambda y, t: 1 / 0).measured, 0.5, 1, 2)
    assert failed.startswith("task.metric failed: ZeroDivisionError: division by zero (")
    said = "task.loss must return a tensor with one number, the mean over the batch; got float"
    assert message(Task(lambda y, t: 0.5).training_loss, torch.zeros(2), torch.zeros(2), 0.0) == said
    assert message(joined, ["text"]) == "the model must return tensors, returned str"
    one, two = torch.ones(2), torch.zeros(1)
    assert torch.equal(joined([one, two]), torch.tensor([1.0, 1.0, 0.0]))
    nested = joined([([one], {"a": (two,)}), ([two], {"a": (one,)})])
    assert nested[0][0].tolist() == [1, 1, 0]
    assert nested[1]["a"][0].tolist() == [0, 1, 1]
    assert (type(nested), type(nested[0]), type(nested[1]["a"])) == (tuple, list, tuple)


def test_a_metric_that_is_not_finite_ends_a_training():
    """If epochs are judged by it."""
    for value in (float("nan"), float("inf")):
        task = Task(metric=lambda y, t, value=value: value, by_metric=True, maximize=False)
        said = rf"^task\.metric is {value} at epoch 1, step 6; the losses are finite; let it return a number where "
        with pytest.raises(DivergedError, match=said):
            fit(network(), None, toy(), recipe(epochs=2), task=task)
        fit(network(), None, toy(), recipe(epochs=1), task=Task(metric=task.metric))


def test_a_loader_that_is_exhausted(monkeypatch):
    feed = SimpleNamespace(steps=1, epoch=lambda number: iter(()))
    monkeypatch.setattr(sys.modules["dropopt.training.fit"], "feed_of", lambda *given: feed)
    said = "epoch 1 has no training samples: the loader is exhausted"
    assert message(fit, network(), None, toy(), recipe(epochs=1)) == said


def test_a_parameter_that_a_step_does_not_use_stays():
    """Neither momentum nor weight decay moves it in that step."""

    class First(nn.Module):
        """Uses a parameter in its first training step alone."""

        def __init__(self):
            super().__init__()
            self.inside, self.early, self.seen = network(), nn.Parameter(torch.ones(1, 1)), []

        def forward(self, x):
            self.seen.append(self.early.item())
            return self.inside(x) * self.early if len(self.seen) == 1 else self.inside(x)

    model = First()
    fit(model, None, toy(), recipe(epochs=1, momentum=0.9, weight_decay=0.1, schedule="constant"))
    assert model.seen[0] == 1
    assert len(set(model.seen[1:])) == 1
    assert model.seen[1] != 1


def test_the_size_of_a_batch_depends_on_the_largest_input():
    """It fits into a processor's caches; a GPU has a size of its own, and inputs without channels do not count."""
    inputs = (torch.zeros(5, 2, 20, 20), torch.zeros(5), torch.zeros(5, 3))
    assert _batch_size(inputs, CPU) == 200_000 // 400
    assert _batch_size(torch.zeros(5, 3, 100, 100), CPU) == 32
    assert _batch_size(torch.zeros(5, 3), CPU) == 2048
    assert _batch_size(inputs, torch.device("cuda")) == 2048


def test_an_empty_split_is_not_evaluated():
    assert message(evaluate, network(), toy().train.head(0), recipe()) == "an empty split cannot be evaluated"
    model, split = network().eval(), toy(n=500, side=32).train
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(8), model)
    with torch.no_grad():
        expected = pooled(split.images)
    found = list(batches_of_outputs(pooled, split.images, recipe()))
    assert [len(batch) for batch in found] == [195, 195, 110]
    assert torch.allclose(torch.cat(found), expected, atol=1e-5)
    assert not found[0].requires_grad
    logits, labels = logits_of(pooled, split, recipe())
    assert torch.equal(logits, torch.cat(found))
    assert torch.equal(labels, split.labels)

    class Several(nn.Module):
        """Outputs in a tuple, with something that is no tensor."""

        def forward(self, x):
            return x.mean((1, 2, 3)), 3

    task = Task(lambda outputs, targets: outputs[0].mean(), lambda outputs, targets: seen.append(outputs) or 0.5)
    seen = []
    said = "the model must return tensors, returned int"
    assert message(evaluate, Several(), split, TrainConfig(device="cpu"), task) == said
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Several, "forward", lambda self, x: (x.mean((1, 2, 3)).double(), [torch.arange(len(x))]))
        assert evaluate(Several(), split, TrainConfig(device="cpu"), task)[1] == 0.5
    ((means, (numbers,)),) = seen
    assert (means.dtype, numbers.dtype, len(means), len(numbers)) == (torch.float32, torch.int64, 500, 500)


@pytest.mark.usefixtures("cache")
def test_arrays_and_folders_that_cannot_be_read(tmp_path, monkeypatch):
    name = npz(tmp_path / "a.npz", x=images(4, 5, 5), y=np.arange(4) % 2)

    def damaged(file, key):
        raise ValueError("bad\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.npyio.NpzFile, "__getitem__", damaged)
        assert refused(name) == f"{tmp_path / 'a.npz'}: array 'x' is damaged: bad"
    tree = tmp_path / "tree"
    folder(tree / "train", n=10)
    inside = tree / "train" / "cat" / "deep"
    inside.mkdir()
    real = os.scandir

    def scandir(path):
        if str(path) == str(inside):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refused(f"folder:{tree}") == f"{inside} cannot be read: Permission denied"


def test_images_of_any_sides(tmp_path):
    pixels = images(6, 9, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        for size, shape in (((3, 5), (3, 3, 5)), (4, (3, 4, 4)), (None, (3, 6, 9))):
            assert read_image(tmp_path / name, size).array.shape == shape
    assert np.array_equal(read_image(tmp_path / "a.png", None).array, pixels.transpose(2, 0, 1))


def test_system_folders_in_words():
    """Three of them by name, those with most images first."""
    skipped = Counter({"@eaDir": 2, ".a": 9, "b": 3, "c": 4, "d": 1})
    most = "9 in .a, 4 in c, 3 in b"
    assert remark(skipped) == [f"19 images in system or hidden folders are left out: {most} and 2 other folders"]
    assert remark(Counter({"a": 2, "b": 1})) == ["3 images in system or hidden folders are left out: 2 in a, 1 in b"]
    assert remark(Counter({"a": 0})) == remark(Counter()) == []
    for name in (".hidden", ".AppleDouble", "@EADIR", "thumbs.DB", "lost+found", "#recycle", "$RECYCLE.BIN"):
        assert is_system(name), name
    assert not is_system("photos")


def test_resizing_floats_does_not_round():
    """As torchvision resizes them; bytes are rounded. A few images at a time give the same."""
    given = torch.rand(7, 2, 9, 12)
    expected = F.interpolate(given, (5, 4), mode="bilinear", antialias=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dropopt.training.data.memory.CHUNK", 3 * 2 * 9 * 12)
        assert torch.allclose(resize("a", given, (5, 4)), expected, atol=1e-6)
        whole = (255 * given).round().byte()
        small = F.interpolate(whole.float(), (5, 4), mode="bilinear", antialias=True).round()
        assert torch.equal(resize("a", whole, (5, 4)).float(), small)


def test_the_objective_is_the_loss_unless_it_is_given():
    """As in results of earlier versions."""
    assert TrainResult(0.4, 2, 0.3, 0.9, []).objective == 0.4
    assert TrainResult(0.4, 2, 0.3, 0.9, [], objective=0.125).objective == 0.125


def test_small_parts_of_data():
    """One tensor of samples, and batches that are missing."""
    pair = Split((torch.zeros(2, 3), torch.zeros(2, 1)), torch.zeros(2))
    with pytest.raises(TypeError, match=r"^these samples have several inputs$"):
        _ = pair.tensor
    empty = reader_of("a", DataLoader(DATA, batch_sampler=[]))
    assert message(sample_of, empty) == "a has no batches"
    split = Split(torch.zeros(8, 1, 2, 2), torch.arange(8) % 6)
    few = Split(split.images[:2], torch.tensor([1, 1]))
    copies = {"train/validation": 2, "train/test": 0}
    data = Dataset("d", tuple("abcdef"), split, few, split, remarks=("r",), duplicates=copies)
    assert data.notices == [
        "d: r",
        "d: validation has no images of a, c, d and 2 more classes",
        "d: 2 of 2 validation images are exact copies of train images",
    ]
    stream = Stream(reader_of("a", DATA), lambda batch: batch, split, classes=6)
    moved = replace(data, test=stream).to("cpu")
    assert moved.test is stream
    assert torch.equal(moved.validation.labels, few.labels)
    assert torch.equal(moved.train.labels, split.labels)
