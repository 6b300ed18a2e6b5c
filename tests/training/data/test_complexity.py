"""D_complexity of eq. (9), and the progress bar."""

import io
import sys
import time
from unittest.mock import Mock, call

import pytest
import torch
from samples import folder
from torch.nn import functional as F

from dropopt.config import DataConfig
from dropopt.training import Split, load_data
from dropopt.training.data import complexity as complexity_module
from dropopt.training.data import from_source, progress, read_folder, read_stream, read_torch, stream
from dropopt.training.data.complexity import complexity
from dropopt.training.data.pixels import white_of

pytestmark = pytest.mark.usefixtures("cache")


class TestComplexity:
    """D_complexity of eq. (9)."""

    def test_it_is_computed_once(self, cache, monkeypatch):
        """A second load finds it by the training split's hash; a damaged file is computed again."""
        config = DataConfig(name="digits", subset=200)
        value = load_data(config).complexity
        with monkeypatch.context() as patch:
            patch.setattr(complexity_module, "complexity", None)
            assert load_data(config).complexity == value
        (kept,) = (cache / "complexity").glob("*.json")
        few = Split(torch.randn(60, 1, 8, 8), torch.arange(60) % 4)
        found = [complexity_module.remembered_complexity(few, classes, "digest") for classes in (4, 6)]
        assert found == [complexity(few, classes) for classes in (4, 6)]  # of as many classes
        for damage in ("", "{", '{"complexity": 7.0}', '{"complexity": "no"}', "[]"):
            kept.write_text(damage)
            assert load_data(config).complexity == value

    def test_equal_images_are_as_hard_as_guessing(self):
        """If all images are equal, D is the normalised entropy times 1 - 1/classes; three of a class are enough."""
        for count in (9, 30):
            assert complexity(Split(torch.ones(count, 1, 4, 4), torch.arange(count) % 3), 3) == pytest.approx(2 / 3)

    def test_other_shapes_are_pooled_alike(self):
        """To at most 144 numbers a channel; several inputs side by side, each with a deviation of 1."""
        draw = torch.Generator().manual_seed(0)
        for shape, pooled in (
            ((5, 2, 30, 6), lambda x: F.adaptive_avg_pool2d(x, (12, 6))),
            ((5, 2, 288), lambda x: x.view(5, 2, 144, 2).mean(-1)),
            ((5, 2, 100), lambda x: x),
            ((5, 2, 10, 4, 5), lambda x: x.view(5, 2, 5, 2, 4, 5).mean(3)),
            ((5, 7), lambda x: x),
        ):
            samples = torch.randn(shape, generator=draw)
            assert torch.allclose(complexity_module._pooled(samples), pooled(samples), atol=1e-6), shape
        one, two = torch.randn(5, 2, 24, 3, generator=draw), 9 * torch.randn(5, 4, generator=draw)
        columns = [part / part.std(correction=0) for part in (one.view(5, 2, 12, 2, 3).mean(3).flatten(1), two)]
        for given in ((one, two), {"a": one, "b": two}):
            assert torch.allclose(complexity_module._as_one(given), torch.cat(columns, 1), atol=1e-5)
        assert not complexity_module._as_one((torch.ones(5, 2), torch.zeros(5, 1)))[:, 2].any()

    def test_it_takes_a_moment(self):
        split = Split(torch.randn(5000, 1, 28, 28), torch.arange(5000) % 10)
        complexity(split.head(100), 10)  # imports
        began = time.process_time()
        complexity(split, 10)
        assert time.process_time() - began < 2


def test_progress_says_what_is_done(tmp_path, monkeypatch):
    """The count and the words of every bar, for images and for data sets that are read anew."""
    seen = []

    def tracked(items, count, what):
        seen.append((count, what))
        return items

    for module in (from_source, read_folder, read_stream, read_torch, stream):
        monkeypatch.setattr(module, "tracked", tracked)
    load_data(DataConfig(name=folder(tmp_path / "photos")))
    load_data(DataConfig(name="digits", image_size=6))
    assert seen == [(10, "reading images"), (1, "resizing images")]
    seen.clear()
    steady = "reading other_tasks:steady"
    load_data(DataConfig(name="other_tasks:steady"))
    assert seen == [(count, f"{steady}: {split}") for split, count in (("train", 60), ("validation", 20), ("test", 20))]
    seen.clear()
    load_data(DataConfig(name="other_tasks:augmented"))
    others = [(1, f"reading other_tasks:augmented: {split}") for split in ("validation", "test")]
    assert seen == [(1, "reading other_tasks:augmented: train"), *others, *others]
    seen.clear()
    monkeypatch.setattr(stream, "SAMPLES", 4)
    load_data(DataConfig(name="other_tasks:signals", in_memory=False))
    assert (1, "reading the targets of other_tasks:signals: train") in seen


def test_progress_is_silent_when_fast_or_piped(capfd, monkeypatch):
    """No bar is shown within two seconds or without a terminal; otherwise it is."""
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    assert list(progress.tracked(range(3), 3, "counting")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress.tracked(range(3), 3, "counting")) == [0, 1, 2]
    assert "counting" in terminal.getvalue()

    made = []
    monkeypatch.setattr(progress, "Progress", lambda **options: made.append(Mock(**options)) or made[-1])
    monkeypatch.setattr(progress, "Console", lambda **options: options)
    with pytest.raises(ZeroDivisionError):
        list(progress.tracked((1 / (3 - number) for number in range(4)), 9, "counting"))
    (bar,) = made
    assert (bar.console, bar.transient) == ({"stderr": True}, True)
    bar.add_task.assert_called_once_with("counting", total=9)
    assert bar.update.call_args_list == [call(bar.add_task.return_value, completed=number) for number in range(3)]
    bar.start.assert_called_once_with()


@pytest.mark.parametrize(
    ("values", "white"),
    [
        ([0.0, 1.0], 1.0),
        ([0.0, 0.51], 1.0),
        ([0.0, 0.5], None),
        ([0.0, 255.0], 255.0),
        ([3.0, 128.0], 255.0),
        ([3.0, 127.5], None),
        ([0.0, 256.0], None),
        ([0.0, 65535.0], 65535.0),
        ([0.0, 65536.0], None),
        ([-0.1, 1.0], None),
        ([0.0, 0.0], None),
    ],
)
def test_white_is_guessed_from_the_range(values, white):
    """The smallest scale whose upper half holds the largest value, if no value is negative."""
    assert white_of(torch.tensor(values)) == white
