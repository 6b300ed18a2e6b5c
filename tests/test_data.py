"""Data: splits that can be trusted, sources in their real formats, and faults that name the file."""

import gzip
import io
import os
import pickle
import shutil
import socket
import struct
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dropopt.config import ConfigError, DataConfig
from dropopt.training import Dataset, Split, load_data, load_once
from dropopt.training import complexity as complexity_module
from dropopt.training.complexity import complexity
from dropopt.training.splits import stratified

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("DROPOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(name, **settings):
    """The one line with which ``name`` is refused."""
    with pytest.raises(ConfigError) as caught:
        load_data(DataConfig(name=name, **settings))
    message = str(caught.value)
    assert "\n" not in message
    return message


def images(n, *shape):
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return f"numpy:{path}"


def folder(root, classes=("cat", "dog"), n=5, size=(12, 10), mode="RGB"):
    """An image tree with ``n`` noisy PNG files a class."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = images(*size[::-1]) if mode == "L" else images(*size[::-1], 3)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{i}.png")
    return f"folder:{root}"


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

    @pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3), (1, 8, 9), (3, 8, 9)])
    def test_layouts_are_told_apart(self, tmp_path, shape):
        """(N, H, W), (N, H, W, C) and (N, C, H, W) all become (N, C, 8, 9) with the right values."""
        x = images(20, *shape)
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=np.arange(20) % 2)))
        channels = 3 if 3 in shape else 1
        assert data.train.images.shape[1:] == (channels, 8, 9)
        planar = x if shape[0] in (1, 3) else x[:, None] if len(shape) == 2 else x.transpose(0, 3, 1, 2)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
        back = {tuple((image * std + mean).round().byte().flatten().tolist()) for image in data.train.images}
        assert back <= {tuple(image.flatten().tolist()) for image in planar}

    def test_names_and_gaps_in_labels_become_numbers(self, tmp_path):
        """Labels may be text or integers with gaps; classes are named after them, in order."""
        names = load_data(DataConfig(name=npz(tmp_path / "a.npz", images=images(9, 5, 5), labels=["b", "a", "c"] * 3)))
        assert names.classes == ("a", "b", "c")
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
            ({"x": images(4, 5, 5), "y": [0, 0, 0, 1]}, "class number 1 has 1 images"),
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


class TestFolder:
    """ImageFolder trees."""

    def test_a_tree_without_splits_is_split(self, tmp_path):
        """Class folders alone give all three splits and the classes' names."""
        data = load_data(DataConfig(name=folder(tmp_path / "tree", n=10)))
        assert data.classes == ("cat", "dog")
        assert [len(split) for split in data.splits().values()] == [13, 3, 4]
        assert data.train.images.shape[1:] == (3, 10, 10)  # the shorter side

    @pytest.mark.parametrize("validation", ["validation", "val", None])
    def test_own_splits_are_used(self, tmp_path, validation):
        """train/, validation/ (or val/) and test/ are kept apart; what is missing is drawn from train/."""
        tree = tmp_path / "tree"
        folder(tree / "train", n=10)
        folder(tree / "test", n=4)
        if validation:
            folder(tree / validation, n=3)
        data = load_data(DataConfig(name=f"folder:{tree}"))
        expected = [20, 6, 8] if validation else [16, 4, 8]
        assert [len(split) for split in data.splits().values()] == expected

    def test_pixels_arrive_as_they_are(self, tmp_path):
        """A picture of the right size reaches the tensor unchanged."""
        tree = tmp_path / "tree"
        for split in ("train", "validation", "test"):
            folder(tree / split, n=2, size=(8, 8))
        data = load_data(DataConfig(name=f"folder:{tree}"))
        std, mean = (torch.tensor(v).view(-1, 1, 1) for v in (data.std, data.mean))
        back = (data.test.images[3] * std + mean).round().byte()
        pixels = np.asarray(Image.open(tree / "test" / "dog" / "1.png"))
        assert (back.numpy() == pixels.transpose(2, 0, 1)).all()

    def test_large_pictures_become_64_and_grey_ones_keep_one_channel(self, tmp_path):
        """Without image_size the side is at most 64; when all are grey there is one channel."""
        data = load_data(DataConfig(name=folder(tmp_path / "tree", size=(150, 90), mode="L")))
        assert data.train.images.shape[1:] == (1, 64, 64)
        assert load_data(DataConfig(name=f"folder:{tmp_path / 'tree'}", image_size=16)).image_size == (16, 16)

    def test_turned_and_transparent_pictures_are_shown_as_seen(self, tmp_path):
        """A rotation tag is applied, transparency becomes white, 16 bits keep their range."""
        tree = tmp_path / "tree"
        folder(tree, n=4, size=(8, 8))
        top = np.zeros((8, 8, 3), np.uint8)
        top[:4] = 255
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        for name, image in {
            "turned.png": (Image.fromarray(top), {"exif": exif}),
            "clear.png": (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), {}),
            "deep.png": (Image.fromarray(np.full((8, 8), 40_000, np.uint16)), {}),
        }.items():
            image[0].save(tree / "cat" / name, **image[1])
        from dropopt.training.folder import _read

        assert _read(tree / "cat" / "turned.png", 8)[0][0, :, 0].tolist() == [0] * 4 + [255] * 4
        assert (_read(tree / "cat" / "clear.png", 8)[0] == 255).all()
        assert (_read(tree / "cat" / "deep.png", 8)[0] == 40_000 >> 8).all()

    def test_images_are_read_once(self, tmp_path, monkeypatch):
        """The second load opens no picture; a changed file, or a broken cache, makes it read again."""
        name = folder(tmp_path / "tree")
        config = DataConfig(name=name, image_size=10)
        first = load_data(config)
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", None)
            assert load_data(config).fingerprint == first.fingerprint
        Image.fromarray(images(10, 10, 3)).save(tmp_path / "tree" / "cat" / "0.png")
        changed = load_data(config)
        assert changed.fingerprint != first.fingerprint
        (kept,) = (tmp_path / "cache" / "folders").glob("*.pt")
        kept.write_bytes(kept.read_bytes()[:1000])
        assert load_data(config).fingerprint == changed.fingerprint

    def test_without_a_cache_folder_it_works_and_says_so(self, tmp_path, monkeypatch):
        """A cache that cannot be written costs a warning, not the data."""
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("DROPOPT_CACHE", str(tmp_path / "file"))
        with pytest.warns(UserWarning, match="not cached"):
            assert len(load_data(DataConfig(name=folder(tmp_path / "tree"))).train) == 6

    def test_damaged_pictures_are_named(self, tmp_path):
        """Half a picture, a text that pretends and an empty file are each named."""
        tree = tmp_path / "tree"
        name = folder(tree, n=4, size=(40, 40))
        victim = tree / "dog" / "2.png"
        content = victim.read_bytes()
        for damage in (content[: len(content) // 2], b"not an image", b"", content[:20]):
            victim.write_bytes(damage)
            message = refused(name, image_size=8)
            assert str(victim) in message
            assert "cannot be read as an image" in message

    def test_trees_that_make_no_sense_are_told(self, tmp_path):
        """No folder, one class, an empty class, a test class without training images, test without train."""
        assert "no such folder" in refused(f"folder:{tmp_path / 'nowhere'}")
        assert "two or more classes" in refused(folder(tmp_path / "one", classes=("cat",)))
        (tmp_path / "two" / "train" / "empty").mkdir(parents=True)
        folder(tmp_path / "two" / "train")
        message = refused(f"folder:{tmp_path / 'two'}")
        assert "the class is empty" in message
        assert str(tmp_path / "two" / "train" / "empty") in message
        folder(tmp_path / "three" / "train")
        folder(tmp_path / "three" / "test", classes=("cat", "wolf"))
        assert "class 'wolf' is in" in refused(f"folder:{tmp_path / 'three'}")
        folder(tmp_path / "four" / "test")
        assert "no folder train" in refused(f"folder:{tmp_path / 'four'}")


def idx(array, path):
    """Write ``array`` in MNIST's own format."""
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mnist_files(raw, suffix="", n=40):
    for part, count in (("train", n), ("t10k", 20)):
        idx(images(count, 28, 28), raw / f"{part}-images-idx3-ubyte{suffix}")
        idx(np.arange(count) % 10, raw / f"{part}-labels-idx1-ubyte{suffix}")


class TestNamed:
    """Data sets by name."""

    @pytest.fixture(autouse=True)
    def _nothing_installed(self, tmp_path, monkeypatch):
        self.shares = tmp_path / "share"
        monkeypatch.setenv("XDG_DATA_DIRS", str(self.shares))

    @pytest.fixture
    def offline(self, monkeypatch):
        """No name resolves."""

        def fail(*_args, **_kwargs):
            raise OSError("Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", fail)

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    @pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
    def test_mnist_files_are_read_where_torchvision_keeps_them(self, tmp_path, name, kind, suffix):
        """The four files under root/NAME/raw, plain or gzipped, are enough: 20 test images, the rest split."""
        mnist_files(tmp_path / kind / "raw", suffix)
        data = load_data(DataConfig(name=name, root=str(tmp_path)))
        assert [len(split) for split in data.splits().values()] == [30, 10, 20]
        assert len(data.classes) == 10
        assert data.train.images.shape[1:] == (1, 28, 28)

    def test_a_distributions_package_is_found_by_itself(self, tmp_path):
        """Gzipped files in a datasets folder of the system's share are used without being asked for."""
        mnist_files(self.shares / "datasets" / "fashion-mnist", ".gz")
        data = load_data(DataConfig(name="fashion-mnist", root=str(tmp_path / "data")))
        assert len(data.test) == 20
        assert data.classes[9] == "Ankle boot"
        assert not (tmp_path / "data").exists()

    def test_damaged_mnist_files_are_named(self, tmp_path):
        """A truncated file, plain or gzipped, one of another kind, and too few labels are told with the path."""
        raw = tmp_path / "MNIST" / "raw"
        mnist_files(raw)
        victim = raw / "train-images-idx3-ubyte"
        whole = victim.read_bytes()
        for damage in (whole[:-1], whole[:5], b"\x00\x00\x0d\x03" + whole[4:]):
            victim.write_bytes(damage)
            assert str(victim) in refused("mnist", root=str(tmp_path))
        victim.unlink()
        packed = victim.with_name(victim.name + ".gz")
        packed.write_bytes(gzip.compress(whole)[:-100])
        assert str(packed) in refused("mnist", root=str(tmp_path))
        packed.write_bytes(gzip.compress(whole))
        idx(np.arange(39) % 10, raw / "train-labels-idx1-ubyte")
        assert "40 images and 39 labels" in refused("mnist", root=str(tmp_path))

    @pytest.mark.parametrize("name", ["fashion-mnist", "kmnist", "cifar10", "cifar100", "svhn"])
    def test_without_a_network_it_is_told_what_to_do(self, tmp_path, offline, name, capfd):
        """A download that fails is one line: the set, where its files belong, and what needs no network."""
        message = refused(name, root=str(tmp_path))
        assert message.startswith(f"{name}: ")
        assert str(tmp_path) in message
        assert "Name or service not known" in message
        assert "digits" in message

    def test_a_missing_file_of_four_is_named(self, tmp_path, offline):
        """When one of MNIST's files is absent and cannot be had, it is named."""
        mnist_files(tmp_path / "MNIST" / "raw")
        (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
        assert "raw has no t10k-labels-idx1-ubyte" in refused("mnist", root=str(tmp_path))

    def test_cifar_arrives_upright(self, tmp_path, monkeypatch):
        """CIFAR's batches, in their own format, become (N, 3, 32, 32) with labels and names in place."""
        from torchvision import datasets
        from torchvision.datasets.utils import calculate_md5

        base = tmp_path / datasets.CIFAR10.base_folder
        base.mkdir()
        rows = images(20, 3072)
        entry = {"data": rows, "labels": [i % 10 for i in range(20)]}
        sums = {}
        for name, content in {
            "train": entry,
            "test": entry,
            "meta": {"label_names": [f"c{i}" for i in range(10)]},
        }.items():
            (base / name).write_bytes(pickle.dumps(content))
            sums[name] = calculate_md5(base / name)
        monkeypatch.setattr(datasets.CIFAR10, "train_list", [["train", sums["train"]]])
        monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test", sums["test"]]])
        monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": sums["meta"]})
        data = load_data(DataConfig(name="cifar10", root=str(tmp_path), validation_fraction=0.5))
        assert data.classes[3] == "c3"
        assert data.notices  # the same file served as both
        std, mean = (torch.tensor(v).view(-1, 1, 1) for v in (data.std, data.mean))
        back = (data.test.images[4] * std + mean).round().byte()
        assert (back.numpy() == rows[4].reshape(3, 32, 32)).all()

    def test_svhn_arrives_upright(self, tmp_path, monkeypatch):
        """SVHN's .mat files become (N, 3, 32, 32), and its label 10 the digit 0."""
        from scipy.io import savemat
        from torchvision import datasets
        from torchvision.datasets.utils import calculate_md5

        x = images(32, 32, 3, 40)
        splits = {}
        for split in ("train", "test"):
            savemat(tmp_path / f"{split}.mat", {"X": x, "y": (np.arange(40) % 10 + 1)[:, None]})
            splits[split] = ["", f"{split}.mat", calculate_md5(tmp_path / f"{split}.mat")]
        monkeypatch.setattr(datasets.SVHN, "split_list", splits)
        data = load_data(DataConfig(name="svhn", root=str(tmp_path)))
        assert data.test.labels[9] == 0
        std, mean = (torch.tensor(v).view(-1, 1, 1) for v in (data.std, data.mean))
        back = (data.test.images[9] * std + mean).round().byte()
        assert (back.numpy() == x[..., 9].transpose(2, 0, 1)).all()

    def test_real_fashion_mnist_is_whole(self, monkeypatch):
        """Debian's package, where it is installed, gives 48,000 + 12,000 + 10,000 images of ten balanced classes."""
        monkeypatch.delenv("XDG_DATA_DIRS")
        if not os.path.isdir("/usr/share/datasets/fashion-mnist"):
            pytest.skip("dataset-fashion-mnist is not installed")
        data = load_data(DataConfig(name="fashion-mnist", root="/nonexistent"))
        assert [len(split) for split in data.splits().values()] == [48_000, 12_000, 10_000]
        assert set(torch.bincount(data.train.labels).tolist()) == {4800}
        assert abs(data.mean[0] - 72.94) < 0.2

    def test_unknown_names_get_a_suggestion(self):
        """A misspelt name is refused with the nearest one and all that are known."""
        message = refused("fasion-mnist")
        assert "did you mean 'fashion-mnist'?" in message
        assert "numpy:FILE.npz" in message
        assert "unknown" in refused("folder:")


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


class TestComplexity:
    """D_complexity of eq. (9)."""

    def split(self, n=600, classes=4, noise=0.0, seed=0):
        """Images of ``classes`` random centres under noise."""
        rng = np.random.default_rng(seed)
        y = rng.integers(0, classes, n)
        centres = rng.normal(size=(classes, 1, 8, 8))
        x = centres[y] + noise * rng.normal(size=(n, 1, 8, 8))
        return Split(torch.from_numpy(x).float(), torch.from_numpy(y))

    def test_it_rises_with_difficulty_from_0_to_1(self):
        """Classes that a line separates are near 0, noise with random labels near 1 - 1/classes, always in [0, 1]."""
        easy, medium, hard = (complexity(self.split(noise=noise), 4) for noise in (0.1, 5.0, 1e4))
        assert 0 <= easy < 0.01
        assert easy < medium < hard
        assert 0.65 < hard <= 1

    def test_it_falls_with_imbalance(self):
        """The same noise with one dominant class is less complex: both the entropy and the error are lower."""
        balanced = self.split(noise=1e4)
        skewed = Split(balanced.images, torch.where(balanced.labels < 3, 0, 1))
        assert complexity(skewed, 2) < complexity(balanced, 4)

    def test_it_is_deterministic_and_reads_the_training_split_alone(self, cache, monkeypatch):
        """Two computations agree; NaN in the other splits changes nothing."""
        data = load_data(DataConfig(name="digits"))
        value = complexity(data.train, 10)
        assert value == complexity(data.train, 10)
        for split in (data.test, data.validation):
            split.images.fill_(torch.nan)
        assert data.complexity == value
        assert 0.02 < value < 0.12

    def test_it_is_computed_once(self, cache, monkeypatch):
        """A second process would find it by the training split's hash; a broken file is computed again."""
        value = load_data(DataConfig(name="digits")).complexity
        with monkeypatch.context() as patch:
            patch.setattr(complexity_module, "complexity", None)
            assert load_data(DataConfig(name="digits")).complexity == value
        (kept,) = (cache / "complexity").glob("*.json")
        for damage in ("", "{", '{"complexity": 7.0}', '{"complexity": "no"}', "[]"):
            kept.write_text(damage)
            assert load_data(DataConfig(name="digits")).complexity == value

    def test_odd_sets_have_one_too(self):
        """Rare classes, constant images and a handful of samples still give a number in [0, 1]."""
        rare = self.split(noise=1.0)
        rare.labels[0], rare.labels[1:3] = 4, 5
        constant = Split(torch.zeros(30, 1, 4, 4), torch.arange(30) % 3)
        few = Split(torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 0, 1]))
        for split, classes in ((rare, 6), (constant, 3), (few, 2)):
            assert 0 <= complexity(split, classes) <= 1

    def test_it_takes_a_moment(self):
        """5,000 images of 28x28 take well under the time of an epoch."""
        split = Split(torch.randn(5000, 1, 28, 28), torch.arange(5000) % 10)
        complexity(self.split(), 4)  # imports
        began = time.process_time()
        complexity(split, 10)
        assert time.process_time() - began < 2


def test_progress_is_silent_when_fast_or_piped(capfd, monkeypatch):
    """Nothing is shown within two seconds or without a terminal; on one, what takes longer shows a bar."""
    from dropopt.training import progress

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


def test_sources_leave_no_warning(tmp_path):
    """A typical folder loads without a single warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(DataConfig(name=folder(tmp_path / "tree")))
    shutil.rmtree(tmp_path / "tree")
