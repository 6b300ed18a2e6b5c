"""Downloads by torchvision's own code, from a server on this machine."""

import gzip
import hashlib
import http.server
import pickle
import tarfile
import threading

import numpy as np
import pytest
import torch
from samples import images, refused
from scipy.io import savemat
from torchvision import datasets

from dropopt.config import DataConfig
from dropopt.training import load_data

N = 40
LABELS = np.arange(N) % 10


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A folder that a local server serves, its address, and the requests received."""
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "nothing"))
    folder, asked = tmp_path / "web", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=folder)

        def log_message(self, *_):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def serve_mnist(folder, address, monkeypatch, kind):
    """Serve four gzipped IDX files; return the first test image."""
    sums = []
    for part in ("train", "t10k"):
        pixels = images(N, 28, 28)
        for name, array in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", LABELS)):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            path = folder / f"{name}.gz"
            path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
            sums.append((path.name, md5(path)))
    monkeypatch.setattr(kind, "mirrors", [address])
    monkeypatch.setattr(kind, "resources", sums)
    return pixels[:1]


def serve_cifar(folder, address, monkeypatch, kind):
    """Serve an archive of pickled batches; return the first test image."""
    hundred = kind is datasets.CIFAR100
    base, key = folder / kind.base_folder, "fine_labels" if hundred else "labels"
    base.mkdir()
    names = {kind.meta["key"]: [f"c{i}" for i in range(10)]}
    parts = {name: {"data": images(N, 3072), key: LABELS.tolist()} for name in ("train", "test")} | {"names": names}
    for name, content in parts.items():
        (base / name).write_bytes(pickle.dumps(content))
    with tarfile.open(folder / "all.tar.gz", "w:gz") as archive:
        archive.add(base, kind.base_folder)
    for name in ("train", "test"):
        monkeypatch.setattr(kind, f"{name}_list", [[name, md5(base / name)]])
    meta = {"filename": "names", "key": kind.meta["key"], "md5": md5(base / "names")}
    for name, value in {"url": f"{address}all.tar.gz", "tgz_md5": md5(folder / "all.tar.gz"), "meta": meta}.items():
        monkeypatch.setattr(kind, name, value)
    return parts["test"]["data"][0].reshape(3, 32, 32)


def serve_svhn(folder, address, monkeypatch, kind):
    """Serve two .mat files, in which the label of the digit 0 is 10; return the first test image."""
    entries = {}
    for split in ("train", "test"):
        pixels = images(32, 32, 3, N)
        savemat(folder / f"{split}.mat", {"X": pixels, "y": np.where(LABELS == 0, 10, LABELS)[:, None]})
        entries[split] = [f"{address}{split}.mat", f"{split}.mat", md5(folder / f"{split}.mat")]
    monkeypatch.setattr(kind, "split_list", entries)
    return pixels[..., 0].transpose(2, 0, 1)


#: How each is served, torchvision's class, and the name of class 3.
SERVED = {
    "mnist": (serve_mnist, datasets.MNIST, "3"),
    "fashion-mnist": (serve_mnist, datasets.FashionMNIST, "Dress"),
    "kmnist": (serve_mnist, datasets.KMNIST, "tsu"),
    "cifar10": (serve_cifar, datasets.CIFAR10, "c3"),
    "cifar100": (serve_cifar, datasets.CIFAR100, "c3"),
    "svhn": (serve_svhn, datasets.SVHN, "3"),
}


@pytest.mark.parametrize("name", SERVED)
def test_a_data_set_is_downloaded_once(tmp_path, monkeypatch, capfd, web, name):
    """Half a file fails its checksum and gives one line with the data set and the folder.

    A retry gives the right pixels and labels; after that, a load sends no request.
    """
    folder, address, asked = web
    serve, kind, third = SERVED[name]
    first = serve(folder, address, monkeypatch, kind)
    config = DataConfig(name=name, root=str(tmp_path / "root"))
    whole = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for path, content in whole.items():
        path.write_bytes(content[: len(content) // 2])
    message = refused(name, root=config.root)
    assert message.startswith(f"{name}: ")
    assert config.root in message
    assert "cannot be downloaded" in message
    for path, content in whole.items():
        path.write_bytes(content)
    data = load_data(config)
    assert [len(split) for split in data.splits().values()] == [30, 10, N]
    assert data.test.labels.tolist() == LABELS.tolist()
    assert data.classes[3] == third
    std, mean = (torch.tensor(v).view(-1, 1, 1) for v in (data.std, data.mean))
    assert ((data.test.images[0] * std + mean).round().byte().numpy() == first).all()
    count = len(asked)
    assert load_data(config).fingerprint == data.fingerprint
    assert len(asked) == count
