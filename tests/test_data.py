"""Data: splits that can be trusted, numbers that are known, arrays from files and from a person's own code."""

import os
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import RNG, images, npz, refused

from dropopt.config import ConfigError, DataConfig
from dropopt.training import Dataset, Split, load_data, load_once
from dropopt.training.splits import stratified


class TestSplits:
    """Which image goes where."""

    def test_splits_are_disjoint_complete_and_stratified(self):
        """Every digit is in exactly one split, and each class has its share of each within one image."""
        data = load_data(DataConfig(name="digits"))
        sizes = {name: len(split) for name, split in data.splits().items()}
        assert sizes == {"train": 1150, "validation": 288, "test": 359}
        labels = torch.cat([split.labels for split in data.splits().values()])
        total = torch.bincount(labels)
        assert total.sum() == 1797
        for split in data.splits().values():
            share = total * len(split) / 1797
            assert (torch.bincount(split.labels, minlength=10) - share).abs().max() <= 1.5
        assert not any(data.duplicates.values())  # digits has no doubles, so no image is in two splits

    def test_split_seed_alone_decides(self):
        """The same seed gives the same splits, another seed others."""
        first, again = (load_data(DataConfig(name="digits")) for _ in range(2))
        other = load_data(DataConfig(name="digits", split_seed=1))
        assert first.fingerprint == again.fingerprint
        assert not set(first.fingerprint.values()) & set(other.fingerprint.values())

    def test_subset_is_exact_and_leaves_the_test_split_alone(self):
        """``subset`` images are trained and validated on, and the test images stay those of the whole set."""
        whole = load_data(DataConfig(name="digits"))
        part = load_data(DataConfig(name="digits", subset=200))
        assert len(part.train) + len(part.validation) == 200
        assert part.fingerprint["test"] == whole.fingerprint["test"]
        assert torch.bincount(part.train.labels).min() >= 15

    def test_subset_that_cannot_be_is_refused(self):
        """More images than there are, or too few for every class, are refused with the legal range."""
        assert "in [20, 1438]" in refused("digits", subset=19)
        assert "got 1500" in refused("digits", subset=1500)

    @given(
        sizes=st.lists(st.integers(2, 60), min_size=2, max_size=12),
        share=st.floats(0, 1),
        seed=st.integers(0, 9),
    )
    def test_stratified_is_exact_within_its_limits(self, sizes, share, seed):
        """Any legal count is met exactly; no class is left out or used up, and each is within one of its quota."""
        labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        low, high = len(sizes), sum(sizes) - len(sizes)
        count = round(low + share * (high - low))
        chosen = stratified(labels, count, least=1, spare=1, seed=seed, purpose="p")
        found = torch.bincount(labels[chosen], minlength=len(sizes))
        assert int(chosen.sum()) == count
        assert (found >= 1).all()
        assert (found < torch.tensor(sizes)).all()
        quota = torch.tensor(sizes) * count / sum(sizes)
        inside = (quota >= 1) & (quota <= torch.tensor(sizes) - 1)
        if inside.all():
            assert ((found - quota).abs() < 1 + 1e-6).all()

    def test_own_splits_are_kept(self, tmp_path):
        """A test and a validation split that a data set brings are used as they are."""
        arrays = {"x": images(20, 6, 6), "x_val": images(6, 6, 6), "x_test": images(8, 6, 6)}
        labels = {"y": np.arange(20) % 2, "y_val": np.arange(6) % 2, "y_test": np.arange(8) % 2}
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", **arrays, **labels)))
        assert [len(split) for split in data.splits().values()] == [20, 6, 8]
        back = data.test.images * data.std[0] + data.mean[0]
        assert np.abs(back[:, 0].numpy() - arrays["x_test"]).max() < 1e-3


class TestNumbers:
    """What the tensors hold, and what is known about them."""

    def test_training_statistics_normalise_every_split(self, tmp_path):
        """Training images have mean 0 and deviation 1 per channel; the others are on the same scale."""
        x = RNG.normal((5, -3, 1e3), (2, 0.1, 10), (300, 5, 5, 3)).astype(np.float32)
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=np.arange(300) % 3)))
        train = data.train.images
        assert train.dtype == torch.float32
        assert train.mean((0, 2, 3)).abs().max() < 1e-4
        assert (train.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
        assert data.test.images.mean((0, 2, 3)).abs().max() < 0.2
        assert np.allclose(data.mean, (5, -3, 1e3), atol=1)

    def test_constant_channel_stays_finite(self, tmp_path):
        """A channel that never changes becomes 0, not NaN."""
        x = images(20, 2, 5, 5)
        x[:, 1] = 7
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=np.arange(20) % 2)))
        assert (data.train.images[:, 1] == 0).all()
        assert data.train.images.isfinite().all()

    def test_channels_lie_next_to_each_other(self, tmp_path):
        """Images are kept in channels_last memory, so that no epoch pays for the layout."""
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=images(20, 3, 5, 5), y=np.arange(20) % 2)))
        assert data.train.images.is_contiguous(memory_format=torch.channels_last)
        assert (data.channels, data.image_size) == (3, (5, 5))

    def test_fingerprint_sees_one_pixel(self, tmp_path):
        """A split's hash changes with a single value of it, and with nothing else."""
        x, y = images(40, 5, 5), np.arange(40) % 2
        first = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=y))).fingerprint
        x[7, 2, 2] ^= 1
        second = load_data(DataConfig(name=npz(tmp_path / "b.npz", x=x, y=y))).fingerprint
        assert sum(first[name] != second[name] for name in first) == 1

    def test_duplicates_across_splits_are_counted_and_told(self, tmp_path):
        """Exact copies of training images in the test split are counted, and there is a sentence to print."""
        x, test = images(30, 5, 5), images(10, 5, 5)
        test[:3] = x[4]
        arrays = {"x": x, "x_val": images(4, 5, 5), "x_test": test}
        labels = {"y": np.arange(30) % 2, "y_val": np.arange(4) % 2, "y_test": np.arange(10) % 2}
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", **arrays, **labels)))
        assert data.duplicates == {"train/validation": 0, "train/test": 3, "validation/test": 0}
        (notice,) = data.notices
        assert notice.endswith("3 of 10 test images are exact copies of train images")

    @pytest.mark.parametrize("size", [6, 20])
    def test_image_size_resizes_what_is_an_array(self, size):
        """Digits can be made smaller or larger; a mean colour stays itself."""
        data = load_data(DataConfig(name="digits", image_size=size))
        assert data.image_size == (size, size)
        assert abs(data.mean[0] - 4.88) < 0.2

    def test_load_once_keeps_the_last(self):
        """A process that asks again for the same data gets the very same tensors."""
        assert load_once(DataConfig(name="digits")) is load_once(DataConfig(name="digits"))

    def test_a_dataset_checks_itself(self):
        """Splits of different shapes, empty ones and labels of another type are refused."""
        good = Split(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
        wide = Split(torch.zeros(2, 1, 4, 5), good.labels)
        with pytest.raises(ConfigError, match="test images must be"):
            Dataset("d", ("a", "b"), good, good, wide)
        with pytest.raises(ConfigError, match="int64"):
            Dataset("d", ("a", "b"), good, Split(good.images, good.labels.float()), good)


class TestNumpy:
    """.npz files."""

    @pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 2), (8, 9, 3), (1, 8, 9), (3, 8, 9)])
    def test_layouts_are_told_apart(self, tmp_path, shape):
        """(N, H, W), (N, H, W, C) and (N, C, H, W) all become (N, C, 8, 9) with the right values."""
        x = images(20, *shape)
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=np.arange(20) % 2)))
        channels = next((c for c in (2, 3) if c in shape), 1)
        assert data.train.images.shape[1:] == (channels, 8, 9)
        planar = x if shape[0] in (1, 3) else x[:, None] if len(shape) == 2 else x.transpose(0, 3, 1, 2)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
        back = {tuple((image * std + mean).round().byte().flatten().tolist()) for image in data.train.images}
        assert back <= {tuple(image.flatten().tolist()) for image in planar}

    def test_names_and_gaps_in_labels_become_numbers(self, tmp_path):
        """Labels may be text or integers with gaps; classes are named after them, in order."""
        names = load_data(DataConfig(name=npz(tmp_path / "a.npz", images=images(9, 5, 5), labels=["b", "a", "c"] * 3)))
        assert names.classes == ("a", "b", "c")
        raw = load_data(DataConfig(name=npz(tmp_path / "c.npz", x=images(9, 5, 5), y=np.array([b"b", b"a", b"c"] * 3))))
        assert raw.classes == ("a", "b", "c")
        gaps = load_data(DataConfig(name=npz(tmp_path / "b.npz", x=images(9, 5, 5), y=[[30], [10], [20]] * 3)))
        assert gaps.classes == ("10", "20", "30")
        assert set(gaps.train.labels.tolist()) == {0, 1, 2}

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"x": images(6, 5, 5)}, "must have x and y"),
            ({"x": images(6, 5, 5), "y": np.arange(5)}, "x has 6 images, y 5 labels"),
            ({"x": images(6, 5), "y": np.arange(6)}, "must be (N, H, W)"),
            ({"x": images(6, 5, 5), "y": np.zeros(6, int)}, "at least two classes"),
            ({"x": images(6, 5, 5), "y": np.linspace(0, 1, 6)}, "integers or names"),
            ({"x": np.full((6, 5, 5), np.nan), "y": np.arange(6) % 2}, "not finite"),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2, "z": [1]}, "unknown array 'z'"),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2, "x_test": images(2, 5, 5)}, "must come together"),
            (
                {"x": images(6, 5, 5), "y": np.arange(6) % 2, "x_test": images(2, 5, 6), "y_test": [0, 1]},
                "test images are 1x5x6, training images 1x5x5; all must have one size",
            ),
            (
                {"x": images(6, 5, 5), "y": np.arange(6) % 2, "x_test": images(2, 5, 5), "y_test": [0, 7]},
                "class '7' is in y_test but not in y",
            ),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2, "classes": ["a", "b", "c"]}, "class 'c' has no training"),
            ({"x": images(4, 5, 5), "y": [0, 0, 0, 1]}, "class '1' has 1 images"),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2, "classes": "ab"}, "classes must be a list of names"),
        ],
    )
    def test_faults_are_told_in_one_line_with_the_file(self, tmp_path, arrays, said):
        """Whatever does not fit together in a file is one line with its name and what is wrong."""
        message = refused(npz(tmp_path / "bad.npz", **arrays))
        assert said in message
        assert str(tmp_path / "bad.npz") in message

    def test_missing_truncated_and_foreign_files_are_told(self, tmp_path):
        """No file, half a file, a text and a lone array are each named."""
        assert "no such file" in refused(f"numpy:{tmp_path / 'none.npz'}")
        npz(tmp_path / "a.npz", x=images(50, 9, 9), y=np.arange(50) % 2)
        content = (tmp_path / "a.npz").read_bytes()
        for cut in (0, 10, len(content) // 2, len(content) - 30):
            (tmp_path / "half.npz").write_bytes(content[:cut])
            assert "half.npz" in refused(f"numpy:{tmp_path / 'half.npz'}")
        (tmp_path / "text.npz").write_text("hello")
        assert "text.npz" in refused(f"numpy:{tmp_path / 'text.npz'}")
        np.save(tmp_path / "lone.npy", images(4, 4))
        assert "expected a .npz file" in refused(f"numpy:{tmp_path / 'lone.npy'}")

    def test_flipped_bytes_are_told(self, tmp_path):
        """Damage inside a compressed array is found by its checksum, and the file named."""
        np.savez_compressed(tmp_path / "a.npz", x=images(50, 9, 9), y=np.arange(50) % 2)
        content = bytearray((tmp_path / "a.npz").read_bytes())
        content[1500:1510] = bytes(10)
        (tmp_path / "a.npz").write_bytes(content)
        assert "a.npz" in refused(f"numpy:{tmp_path / 'a.npz'}")

    def test_objects_in_a_file_are_refused_and_never_run(self, tmp_path):
        """Arrays of several sizes are Python objects: refused; a pickle that would run a command does not."""
        ragged = np.empty(4, dtype=object)
        ragged[:] = [images(5, 5), images(6, 6), images(5, 5), images(5, 5)]
        name = npz(tmp_path / "ragged.npz", x=ragged, y=np.arange(4) % 2)
        assert "images of several sizes?" in refused(name)
        evil = np.empty(1, dtype=object)
        evil[0] = _Evil(tmp_path / "ran")
        refused(npz(tmp_path / "evil.npz", x=evil, y=np.arange(1)))
        assert not (tmp_path / "ran").exists()


class _Evil:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


OWN = """
import numpy as np
from os import getcwd
rng = np.random.default_rng(0)
def pair():
    return rng.integers(0, 256, (40, 6, 6), dtype=np.uint8), np.arange(40) % 4
def named():
    x, y = pair()
    return {"images": x, "labels": y, "x_test": x[:8], "y_test": y[:8], "classes": ["a", "b", "c", "d"]}
def ragged():
    return [np.zeros((5, 5)), np.zeros((6, 6))], [0, 1]
def ready():
    import torch
    from dropopt.training import Dataset, Split
    split = Split(torch.zeros(4, 1, 5, 5), torch.tensor([0, 1, 0, 1]))
    return Dataset("mine", ("a", "b"), split, split, split)
def number():
    return 7
"""


class TestOwnFunction:
    """``module:function``."""

    @pytest.fixture(autouse=True)
    def _module(self, tmp_path, monkeypatch):
        (tmp_path / "own_data.py").write_text(OWN)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        yield
        sys.modules.pop("own_data", None)

    def test_arrays_from_a_function_are_a_data_set(self):
        """A function in the current folder that returns (images, labels) or named arrays is enough."""
        assert [len(s) for s in load_data(DataConfig(name="own_data:pair")).splits().values()] == [26, 6, 8]
        data = load_data(DataConfig(name="own_data:named"))
        assert data.classes == ("a", "b", "c", "d")
        assert data.duplicates["train/test"] + data.duplicates["validation/test"] == 8

    def test_a_ready_dataset_is_used_as_it_is(self):
        """A function may return a Dataset; its hashes are filled in, and settings that cannot apply are refused."""
        data = load_data(DataConfig(name="own_data:ready"))
        assert data.name == "mine"
        assert set(data.fingerprint) == {"train", "validation", "test"}
        assert "subset and image_size cannot apply" in refused("own_data:ready", subset=2)

    def test_what_is_no_data_is_told(self):
        """A function that returns something else, or pictures of several sizes, is told."""
        assert "got int" in refused("own_data:number")
        assert "one size" in refused("own_data:ragged")

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("os:getcwd", "'os' is not your own code"),
            ("builtins:eval", "'builtins' is not your own code"),
            ("torch.hub:load", "'torch' is not your own code"),
            ("dropopt.cli:main", "'dropopt.cli' is not your own code"),
            ("own_data:getcwd", "must be defined in 'own_data', not imported there"),
            ("own_data:missing", "has no function 'missing'"),
            ("own_data.inside:x", "there is no module 'own_data.inside'"),
            ("no_such_module:x", "there is no module 'no_such_module'"),
            ("own data:x", "expected module:function"),
            ("own_data:pair()", "expected module:function"),
        ],
    )
    def test_a_name_reaches_own_code_only(self, name, said):
        """A setting cannot name the standard library, an installed package or what a module merely imported."""
        assert said in refused(name)
