"""Sources in their real formats: folder trees, MNIST's files, CIFAR's, SVHN's; faults name the file."""

import gzip
import os
import socket
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from samples import folder, images, refused

from dropopt.config import DataConfig
from dropopt.training import load_data
from dropopt.training.data import folder as module
from dropopt.training.data.folder import _read, _read_all


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("DROPOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
        assert _read(tree / "cat" / "turned.png", 8)[0][0, :, 0].tolist() == [0] * 4 + [255] * 4
        assert (_read(tree / "cat" / "clear.png", 8)[0] == 255).all()
        assert (_read(tree / "cat" / "deep.png", 8)[0] == 40_000 >> 8).all()
        (tree / "cat" / "deep.pgm").write_bytes(b"P5 8 8 65535\n" + np.full((8, 8), 40_000, ">u2").tobytes())
        assert (_read(tree / "cat" / "deep.pgm", 8)[0] == 40_000 >> 8).all()

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

    def test_a_picture_that_pretends_to_be_old_is_read_anew(self, tmp_path):
        """Two pictures that change places, of one size and one time, as archives unpack them: so do their labels."""
        name = folder(tmp_path / "tree", n=10, size=(8, 8))
        cat, dog = (tmp_path / "tree" / kind / "0.bmp" for kind in ("cat", "dog"))
        for path in (cat, dog):
            Image.fromarray(images(8, 8, 3)).save(path)
            os.utime(path, ns=(10**18, 10**18))
        first = load_data(DataConfig(name=name))
        swap = tmp_path / "swap"
        cat.rename(swap), dog.rename(cat), swap.rename(dog)
        assert load_data(DataConfig(name=name)).fingerprint != first.fingerprint

    def test_a_full_disk_reads_once(self, tmp_path, monkeypatch):
        """Where the cache's file cannot be written, what was read is used."""
        times = []
        monkeypatch.setattr(module, "_read_all", lambda *given: times.append(1) or _read_all(*given))

        def full(*_args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "save_tensors", full)
        with pytest.warns(UserWarning, match="No space left"):
            load_data(DataConfig(name=folder(tmp_path / "tree")))
        assert times == [1]

    def test_what_a_killed_process_left_is_removed(self, tmp_path, cache):
        """Half a cache file, as large as the data, does not stay for ever."""
        name = folder(tmp_path / "tree")
        load_data(DataConfig(name=name))
        (kept,) = (cache / "folders").glob("*.pt")
        left = kept.with_name(f".{kept.name}.abc.tmp")
        left.write_bytes(b"half")
        kept.unlink()
        load_data(DataConfig(name=name))
        assert not left.exists()

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
        folder(tmp_path / "five", classes=("train", "test"))
        assert "five/test must have a folder for each of two or more classes" in refused(f"folder:{tmp_path / 'five'}")
        few = refused(folder(tmp_path / "six", n=2))
        assert "validation: class 'cat' has 1 images, at least 2 are needed" in few

    def test_a_class_that_a_split_lacks_is_told(self, tmp_path):
        """A test folder without dogs is used, and said to have none."""
        folder(tmp_path / "train", n=10)
        folder(tmp_path / "test", classes=("cat",), n=2)
        data = load_data(DataConfig(name=f"folder:{tmp_path}"))
        assert data.notices == [f"folder:{tmp_path}: test has no images of dog"]

    @pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "testing")])
    def test_folders_of_splits_are_no_classes(self, tmp_path, train, test):
        """Other spellings of train and test are those splits, not two classes to tell apart."""
        folder(tmp_path / train, n=10)
        folder(tmp_path / test, n=4)
        data = load_data(DataConfig(name=f"folder:{tmp_path}"))
        assert data.classes == ("cat", "dog")
        assert len(data.test) == 8

    def test_a_class_may_be_called_train(self, tmp_path):
        """Photographs of trains beside those of cars are a class."""
        assert load_data(DataConfig(name=folder(tmp_path / "tree", classes=("car", "train")))).classes == (
            "car",
            "train",
        )

    def test_what_is_left_out_is_told(self, tmp_path):
        """Folders beside train and files that are no pictures are named; what systems leave behind is not."""
        tree = tmp_path / "tree"
        folder(tree / "train", n=10)
        folder(tree / "dev", n=2)
        (tree / "train" / "cat" / "a.heic").write_bytes(b"")
        (tree / "train" / "dog" / "b.HEIC").write_bytes(b"")
        (tree / "train" / "dog" / "notes").write_bytes(b"")
        (tree / "train" / "dog" / ".hidden").write_bytes(b"")
        (tree / "train" / "__MACOSX").mkdir()
        data = load_data(DataConfig(name=f"folder:{tree}"))
        assert data.classes == ("cat", "dog")
        assert data.notices == [
            f"folder:{tree}: folders beside train are left out: dev",
            f"folder:{tree}: 3 files of other kinds are left out: 2 .heic, 1 without a suffix",
        ]

    def test_a_picture_by_another_name_is_read_and_a_program_is_not(self, tmp_path):
        """A JPEG may be called .jfif; PostScript, which Pillow would hand to Ghostscript, is no picture."""
        name = folder(tmp_path / "tree")
        victim = tmp_path / "tree" / "cat" / "0.jfif"
        Image.fromarray(images(8, 8, 3)).save(victim, "JPEG")
        assert sum(len(split) for split in load_data(DataConfig(name=name)).splits().values()) == 11
        Image.fromarray(images(8, 8, 3)).save(victim, "EPS")
        message = refused(name)
        assert f"{victim} cannot be read as an image" in message

    def test_paths_that_lead_nowhere_are_told(self, tmp_path, monkeypatch):
        """A user that is not, a name that is too long, a path without its prefix."""
        assert "no such user's home" in refused("folder:~nobody-here/x")
        assert "no such user's home" in refused("mnist", root="~nobody-here/x")
        assert "cannot be read: File name too long" in refused(f"folder:{tmp_path}/{'a' * 300}")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photographs").mkdir()
        assert "is a path; did you mean 'folder:photographs'?" in refused("photographs")
        assert "did you mean 'cifar10'?" in refused("CIFAR-10")

    def test_links_are_followed_once(self, tmp_path):
        """Linked class folders are read; a link back up adds no copies."""
        folder(tmp_path / "real", n=10)
        (tmp_path / "tree").mkdir()
        for name in ("cat", "dog"):
            (tmp_path / "tree" / name).symlink_to(tmp_path / "real" / name)
        (tmp_path / "real" / "cat" / "again").symlink_to(tmp_path / "real" / "cat")
        data = load_data(DataConfig(name=f"folder:{tmp_path / 'tree'}"))
        assert sum(len(split) for split in data.splits().values()) == 20

    def test_pixels_without_a_scale_are_refused(self, tmp_path):
        """Floating-point pictures would be clipped to black and white: the file is named instead."""
        name = folder(tmp_path / "tree")
        victim = tmp_path / "tree" / "cat" / "0.tiff"
        Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(victim)
        message = refused(name)
        assert str(victim) in message
        assert "its pixels have 32 bits" in message


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


def test_sources_leave_no_warning(tmp_path):
    """A typical folder loads without a single warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(DataConfig(name=folder(tmp_path / "tree")))
