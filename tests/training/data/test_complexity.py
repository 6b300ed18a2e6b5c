"""D_complexity of eq. (9), and the progress bar."""

import io
import sys
import time

import numpy as np
import pytest
import torch

from dropopt.config import DataConfig
from dropopt.training import Split, load_data
from dropopt.training.data import complexity as complexity_module
from dropopt.training.data import progress
from dropopt.training.data.complexity import complexity


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("DROPOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class TestComplexity:
    """D_complexity of eq. (9)."""

    def split(self, n=600, classes=4, noise=0.0, seed=0):
        """Images of ``classes`` random centres with noise."""
        rng = np.random.default_rng(seed)
        y = rng.integers(0, classes, n)
        centres = rng.normal(size=(classes, 1, 8, 8))
        x = centres[y] + noise * rng.normal(size=(n, 1, 8, 8))
        return Split(torch.from_numpy(x).float(), torch.from_numpy(y))

    def test_it_rises_with_difficulty_from_0_to_1(self):
        """Linearly separable classes give nearly 0, pure noise nearly 1 - 1/classes."""
        easy, medium, hard = (complexity(self.split(noise=noise), 4) for noise in (0.1, 5.0, 1e4))
        assert 0 <= easy < 0.01
        assert easy < medium < hard
        assert 0.65 < hard <= 1

    def test_it_falls_with_imbalance(self):
        """The same noise with one dominant class is less complex: entropy and error are lower."""
        balanced = self.split(noise=1e4)
        skewed = Split(balanced.images, torch.where(balanced.labels < 3, 0, 1))
        assert complexity(skewed, 2) < complexity(balanced, 4)

    def test_it_is_deterministic_and_uses_the_training_split_only(self, cache, monkeypatch):
        """Two computations agree, and NaN in the other splits changes nothing."""
        data = load_data(DataConfig(name="digits"))
        value = complexity(data.train, 10)
        assert value == complexity(data.train, 10)
        for split in (data.test, data.validation):
            split.images.fill_(torch.nan)
        assert data.complexity == value
        assert 0.02 < value < 0.12

    def test_it_is_computed_once(self, cache, monkeypatch):
        """A second load finds it by the training split's hash; a damaged file is computed again."""
        value = load_data(DataConfig(name="digits")).complexity
        with monkeypatch.context() as patch:
            patch.setattr(complexity_module, "complexity", None)
            assert load_data(DataConfig(name="digits")).complexity == value
        (kept,) = (cache / "complexity").glob("*.json")
        for damage in ("", "{", '{"complexity": 7.0}', '{"complexity": "no"}', "[]"):
            kept.write_text(damage)
            assert load_data(DataConfig(name="digits")).complexity == value

    def test_degenerate_data_sets_have_one(self):
        """Rare classes, constant images and very few images still give a number in [0, 1]."""
        rare = self.split(noise=1.0)
        rare.labels[0], rare.labels[1:3] = 4, 5
        constant = Split(torch.zeros(30, 1, 4, 4), torch.arange(30) % 3)
        few = Split(torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 0, 1]))
        for split, classes in ((rare, 6), (constant, 3), (few, 2)):
            assert 0 <= complexity(split, classes) <= 1

    def test_equal_images_are_as_hard_as_guessing(self):
        """If all images are equal, D is the normalised entropy times 1 - 1/classes."""
        assert complexity(Split(torch.ones(30, 1, 4, 4), torch.arange(30) % 3), 3) == pytest.approx(2 / 3)

    def test_it_takes_a_moment(self):
        """5,000 images of 28x28 take less than two seconds of processor time."""
        split = Split(torch.randn(5000, 1, 28, 28), torch.arange(5000) % 10)
        complexity(self.split(), 4)  # imports
        began = time.process_time()
        complexity(split, 10)
        assert time.process_time() - began < 2


def test_progress_is_silent_when_fast_or_piped(capfd, monkeypatch):
    """No bar is shown within two seconds or without a terminal; otherwise it is."""
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    assert list(progress.tracked(range(3), 3, "counting")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress.tracked(range(3), 3, "counting")) == [0, 1, 2]
    assert "counting" in terminal.getvalue()
