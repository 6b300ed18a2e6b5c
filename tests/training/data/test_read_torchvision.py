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
        monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))

    @pytest.fixture
    def offline(self, monkeypatch):
        """No name resolves."""

        def fail(*_args, **_kwargs):
            raise OSError("Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", fail)

    @pytest.mark.parametrize(
        ("name", "place", "suffix", "last"),
        [
            ("mnist", "data/MNIST/raw", "", "9"),
            ("fashion-mnist", "data/FashionMNIST/raw", ".gz", "Ankle boot"),
            ("fashion-mnist", "share/datasets/fashion-mnist", ".gz", "Ankle boot"),
        ],
    )
    def test_mnist_files_are_read_where_torchvision_or_linux_keeps_them(self, tmp_path, name, place, suffix, last):
        """The four files, plain or gzipped, are enough: 20 test images, the rest is split. No folder is created."""
        mnist_files(tmp_path / place, suffix)
        data = load_data(DataConfig(name=name, root=str(tmp_path / "data")))
        assert [len(split) for split in data.splits().values()] == [30, 10, 20]
        assert (len(data.classes), data.classes[9]) == (10, last)
        assert data.train.images.shape[1:] == (1, 28, 28)
        assert (tmp_path / "data").exists() == place.startswith("data")

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

    @pytest.mark.parametrize("name", ["mnist", "kmnist", "cifar10", "svhn"])
    def test_without_a_network_the_error_says_what_to_do(self, tmp_path, offline, name, capfd):
        mnist_files(tmp_path / "MNIST" / "raw")
        (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
        message = refused(name, root=str(tmp_path))
        lacks = {
            "mnist": f"{tmp_path / 'MNIST' / 'raw'} has no t10k-labels-idx1-ubyte",
            "kmnist": f"{tmp_path / 'KMNIST' / 'raw'} has no train-images-idx3-ubyte",
        }.get(name, f"{tmp_path} has no intact copy of it")
        remedy = "put its files there, or use data that need no network: digits, folder:PATH, numpy:FILE.npz"
        reason = "(<urlopen error Name or service not known>)"
        assert message == f"{name}: {lacks} and it cannot be downloaded {reason}; {remedy}"

    def test_a_silent_server_does_not_block_a_download(self, tmp_path, monkeypatch):
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

    def test_the_real_fashion_mnist_is_complete(self, monkeypatch):
        monkeypatch.delenv("XDG_DATA_DIRS")
        if not os.path.isdir("/usr/share/datasets/fashion-mnist"):
            pytest.skip("dataset-fashion-mnist is not installed")
        data = load_data(DataConfig(name="fashion-mnist", root="/nonexistent"))
        assert [len(split) for split in data.splits().values()] == [48_000, 12_000, 10_000]
        assert set(torch.bincount(data.train.labels).tolist()) == {4800}
        assert abs(data.mean[0] - 72.94) < 0.2

    def test_unknown_names_get_a_suggestion(self):
        known = "known: " + ", ".join([*DATA, "folder:PATH", "numpy:FILE.npz", "module:function"])
        for name, meant in (("fasion-mnist", "fashion-mnist"), ("folder:", "folder:PATH")):
            assert refused(name) == f"data.name {name!r} is unknown; did you mean {meant!r}? {known}"
