"""MNIST-like data sets from their own files, and data sets that cannot be found."""

import gzip
import os
import socket
import struct

import numpy as np
import pytest
import torch
from samples import images, refused

from dropopt.config import DataConfig
from dropopt.known import DATA
from dropopt.training import load_data

pytestmark = pytest.mark.usefixtures("cache")


def idx(array, path):
    """Write ``array`` in MNIST's format."""
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

    @pytest.mark.parametrize(
        ("name", "kind", "suffix"), [("mnist", "MNIST", ""), ("fashion-mnist", "FashionMNIST", ".gz")]
    )
    def test_mnist_files_are_read_where_torchvision_keeps_them(self, tmp_path, name, kind, suffix):
        """The four files under root/NAME/raw, plain or gzipped, are enough: 20 test images, the rest is split."""
        mnist_files(tmp_path / kind / "raw", suffix)
        data = load_data(DataConfig(name=name, root=str(tmp_path)))
        assert [len(split) for split in data.splits().values()] == [30, 10, 20]
        assert len(data.classes) == 10
        assert data.train.images.shape[1:] == (1, 28, 28)

    def test_a_linux_package_is_found(self, tmp_path):
        """Gzipped files in a datasets folder of the system's share are used, and nothing is created under root."""
        mnist_files(self.shares / "datasets" / "fashion-mnist", ".gz")
        data = load_data(DataConfig(name="fashion-mnist", root=str(tmp_path / "data")))
        assert len(data.test) == 20
        assert data.classes[9] == "Ankle boot"
        assert not (tmp_path / "data").exists()

    def test_damaged_mnist_files_are_named(self, tmp_path):
        """A truncated file, plain or gzipped, a file of another type, and too few labels are errors with the path."""
        raw = tmp_path / "MNIST" / "raw"
        mnist_files(raw)
        victim = raw / "train-images-idx3-ubyte"
        whole = victim.read_bytes()
        truncated = (
            "is truncated: 31360 values expected, 31359 found; delete it, so that it is unpacked or downloaded again"
        )
        other = "is not an IDX file of bytes with 3 dimensions"
        for damage, said in (
            (whole[:-1], truncated),
            (whole[:15], other),
            (b"\x00\x00\x0d\x03" + whole[4:], other),
            (b"\x00\x00\x08\x02" + whole[4:], other),
        ):
            victim.write_bytes(damage)
            assert refused("mnist", root=str(tmp_path)) == f"{victim} {said}"
        victim.unlink()
        packed = victim.with_name(victim.name + ".gz")
        packed.write_bytes(gzip.compress(whole)[:-100])
        ended = "Compressed file ended before the end-of-stream marker was reached"
        assert refused("mnist", root=str(tmp_path)) == f"{packed} cannot be read: {ended}"
        packed.write_bytes(gzip.compress(whole))
        idx(np.arange(39) % 10, raw / "train-labels-idx1-ubyte")
        counts = "train has 40 images and 39 labels; download the files again"
        assert refused("mnist", root=str(tmp_path)) == f"{raw}: {counts}"
        idx(np.arange(40) % 11, raw / "train-labels-idx1-ubyte")
        wrong = f"{raw / 'train-labels-idx1-ubyte'}: labels must be in [0, 9], got 10"
        assert refused("mnist", root=str(tmp_path)) == wrong

    @pytest.mark.parametrize("name", ["kmnist", "cifar10", "svhn"])
    def test_without_a_network_the_error_says_what_to_do(self, tmp_path, offline, name, capfd):
        """A failed download gives one line: the data set, where its files belong, and which data need no network."""
        message = refused(name, root=str(tmp_path))
        lacks = f"{tmp_path} has no intact copy of it"
        if name == "kmnist":
            lacks = f"{tmp_path / 'KMNIST' / 'raw'} has no train-images-idx3-ubyte"
        remedy = "put its files there, or use data that need no network: digits, folder:PATH, numpy:FILE.npz"
        reason = "(<urlopen error Name or service not known>)"
        assert message == f"{name}: {lacks} and it cannot be downloaded {reason}; {remedy}"

    def test_a_silent_server_does_not_block_a_download(self, tmp_path, monkeypatch):
        """Sockets of a download have a timeout; the process's default is restored after it, even if it fails."""
        seen = []

        def look(*_args, **_kwargs):
            seen.append(socket.getdefaulttimeout())
            raise OSError("Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", look)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(7.0)
        try:
            refused("cifar10", root=str(tmp_path))
            assert set(seen) == {30.0}
            assert socket.getdefaulttimeout() == 7.0
        finally:
            socket.setdefaulttimeout(before)

    def test_a_missing_file_of_four_is_named(self, tmp_path, offline):
        """If one of MNIST's files is missing and cannot be downloaded, it is named."""
        mnist_files(tmp_path / "MNIST" / "raw")
        (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
        assert "raw has no t10k-labels-idx1-ubyte" in refused("mnist", root=str(tmp_path))

    def test_the_real_fashion_mnist_is_complete(self, monkeypatch):
        """Debian's package, if installed, gives 48,000 + 12,000 + 10,000 images of ten balanced classes."""
        monkeypatch.delenv("XDG_DATA_DIRS")
        if not os.path.isdir("/usr/share/datasets/fashion-mnist"):
            pytest.skip("dataset-fashion-mnist is not installed")
        data = load_data(DataConfig(name="fashion-mnist", root="/nonexistent"))
        assert [len(split) for split in data.splits().values()] == [48_000, 12_000, 10_000]
        assert set(torch.bincount(data.train.labels).tolist()) == {4800}
        assert abs(data.mean[0] - 72.94) < 0.2

    def test_unknown_names_get_a_suggestion(self):
        """A misspelt name is refused with the closest one and a list of all."""
        known = "known: " + ", ".join([*DATA, "folder:PATH", "numpy:FILE.npz", "module:function"])
        for name, meant in (("fasion-mnist", "fashion-mnist"), ("folder:", "folder:PATH")):
            assert refused(name) == f"data.name {name!r} is unknown; did you mean {meant!r}? {known}"
