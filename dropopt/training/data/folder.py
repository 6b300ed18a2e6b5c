"""A folder tree of images, one folder per class, resized once and kept as a tensor in the cache.

PATH/cat/1.jpg ...                                 all of it, to be split
PATH/train/cat/1.jpg ..., PATH/test/cat/2.jpg ...  with its own splits; PATH/validation or PATH/val likewise

What is left out is told: folders beside train, files of other kinds.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.files import cache_folder, clear_leftovers, load_tensors, save_tensors
from dropopt.training.data.arrays import Source
from dropopt.training.data.dataset import room
from dropopt.training.data.progress import tracked
from dropopt.training.data.split import Split

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif"),
)
#: What a file is read as, whatever it is called: Pillow's other formats may start programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "MPO", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "AVIF")
#: Without an image_size, larger pictures become this small: a CNN from scratch sees enough, a CPU keeps up.
LARGEST_DEFAULT = 64
#: Pictures whose headers tell the default size.
SIZE_SAMPLE = 200
#: Part of the fingerprint: raise it when reading or resizing changes.
VERSION = 2

#: In any case: a folder Test is no class.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
#: What Pillow raises for files that are not the images they say they are.
_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L")
#: Pixels of 32 bits, whose black and white no file tells; Pillow would clip them to 0 and 255.
_UNSCALED = ("I", "F")

#: Folders that archives and network drives leave behind.
_LITTER = ("__MACOSX", "@eaDir")

Files = list[tuple[Path, int]]


def read_folder(root: Path, image_size: int | None) -> Source:
    """The images under ``root``, squeezed to squares of ``image_size``; by default their own size, at most 64."""
    try:
        if not root.is_dir():
            raise ConfigError(f"{root}: no such folder; name yours, as in --data folder:PATH")
        root = root.resolve()
        folders, remarks = _layout(root)
        classes = _classes(folders["train"])
        others: Counter[str] = Counter()
        found = {name: _files(folder, classes, folders["train"], others) for name, folder in folders.items()}
        side = image_size or _default_size([path for path, _ in found["train"]])
        fingerprint = _fingerprint(root, found, side)
    except OSError as error:
        raise ConfigError(f"{error.filename or root} cannot be read: {error.strerror or error}") from None
    place = hashlib.sha256(f"{root} {side}".encode()).hexdigest()[:20]
    tensors = _remembered(cache_folder() / "folders" / f"{place}.pt", fingerprint, root, found, side)
    splits = {
        name: Split(tensors[name], torch.tensor([label for _, label in files], dtype=torch.int64))
        for name, files in found.items()
    }
    if others:
        kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in others.most_common(3))
        remarks.append(f"{others.total()} files of other kinds are left out: {kinds}")
    return Source(
        f"folder:{root}", classes, splits["train"], splits.get("validation"), splits.get("test"), tuple(remarks)
    )


# -- which files


def _layout(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split that the tree has, and what else should be told of it.

    A folder that holds no folders is a class (trains, in photographs).
    """
    top = _subfolders(root)
    found = {}
    for split, names in _SPLITS.items():
        here = [root / name for name in top if name.casefold() in names]
        if len(here) > 1:
            raise ConfigError(f"{root} has both {here[0].name} and {here[1].name}; keep one of them")
        if here:
            found[split] = here[0]
    holding = [split for split, folder in found.items() if _subfolders(folder)]
    if "train" in holding:
        beside = [name for name in top if root / name not in found.values()]
        told = [f"folders beside {found['train'].name} are left out: {', '.join(beside)}"] if beside else []
        return found, told
    for split in holding:
        raise ConfigError(
            f"{root} has a folder {found[split].name} ({split}) but no folder train with a folder a class"
        )
    if found and len(found) == len(top):
        raise ConfigError(f"{root / top[0]} must have a folder for each of two or more classes, has none")
    return {"train": root}, []


def _classes(folder: Path) -> tuple[str, ...]:
    names = _subfolders(folder)
    if len(names) < 2:
        raise ConfigError(f"{folder} must have a folder for each of two or more classes, has {names or 'none'}")
    return tuple(names)


def _subfolders(folder: Path) -> list[str]:
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    return sorted(name for name in names if not name.startswith(".") and name not in _LITTER)


def _files(folder: Path, classes: tuple[str, ...], train: Path, others: Counter[str]) -> Files:
    """Image files and class numbers, in the order of their names; ``others`` counts what else there is by suffix."""
    files: Files = []
    for name in _subfolders(folder):
        if name not in classes:
            raise ConfigError(f"class {name!r} is in {folder} but not in {train}")
        paths = list(_walk(folder / name))
        inside = sorted(path for path in paths if path.suffix.lower() in SUFFIXES)
        others.update(path.suffix.lower() for path in paths if path.suffix.lower() not in SUFFIXES)
        if not inside:
            raise ConfigError(f"{folder / name}: the class is empty; no files {', '.join(SUFFIXES)}")
        files += [(path, classes.index(name)) for path in inside]
    if not files:
        raise ConfigError(f"{folder} has no class folders")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    above: dict[str, frozenset[str]] = {str(folder): frozenset({os.path.realpath(folder)})}
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        seen = above.pop(here)
        places = {name: os.path.realpath(os.path.join(here, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name, place in places.items() if place not in seen]  # a link upwards never ends
        above |= {os.path.join(here, name): seen | {places[name]} for name in folders}
        yield from (Path(here) / name for name in names if not name.startswith("."))


def _raise(error: OSError) -> None:
    raise error


# -- their pixels


def _default_size(paths: list[Path]) -> int:
    """The median of the shorter sides of some pictures, at most :data:`LARGEST_DEFAULT`."""
    shorter = []
    for path in paths[:: max(1, len(paths) // SIZE_SAMPLE)]:
        try:
            with _open(path) as image:
                shorter.append(min(image.size))
        except _UNREADABLE as error:
            raise _unreadable(path, error) from None
    return max(4, min(LARGEST_DEFAULT, int(statistics.median(shorter))))


def _open(path: Path) -> Image.Image:
    Image.init()
    return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])  # not every Pillow has them all


def _read_all(root: Path, found: dict[str, Files], side: int) -> dict[str, Tensor]:
    """All pictures as (N, C, side, side) uint8: C = 1 when every one is grey, else 3."""
    paths = [path for files in found.values() for path, _ in files]
    pixels = room(f"folder:{root}", (len(paths), 3, side, side), torch.uint8)
    grey = True
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        results = pool.map(lambda path: _read(path, side), paths)
        for row, (array, is_grey) in enumerate(tracked(results, len(paths), "reading images")):
            pixels[row] = torch.from_numpy(array)
            grey &= is_grey
    sizes = [len(files) for files in found.values()]
    parts = torch.split(pixels[:, :1].clone() if grey else pixels, sizes)
    return dict(zip(found, parts, strict=True))


def _read(path: Path, side: int) -> tuple[Any, bool]:
    """One picture as (3, side, side) and whether it is grey; upright, on white where it is transparent."""
    try:
        with _open(path) as file:
            file.draft("RGB", (2 * side, 2 * side))  # a large JPEG is decoded at a fraction of its size
            deep = file.mode in _DEEP or (file.mode == "I" and file.format == "PPM")
            grey = file.mode in _GREY or deep
            if file.mode in _UNSCALED and not deep:
                raise ValueError("its pixels have 32 bits; save 8 or 16, or use numpy:FILE.npz")
            image = ImageOps.exif_transpose(file)
            if deep:  # Pillow would clip 16 bits, not scale them
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
                grey = False
            image = image.convert("RGB")
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
            return np.asarray(image).transpose(2, 0, 1).copy(), grey
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: BaseException) -> ConfigError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image, or damaged"
    return ConfigError(f"{path} cannot be read as an image: {reason}")


# -- once


def _fingerprint(root: Path, found: dict[str, Files], side: int) -> str:
    """Changes with any file's name, size or time, and with how it is read.

    Of both times: a copy may keep the time of its last change, but not that of its status.
    """
    digest = hashlib.sha256(f"{VERSION} {side}".encode())
    for name, files in found.items():
        for path, label in files:
            state = path.stat()
            row = f"{name} {label} {path.relative_to(root)} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n"
            digest.update(row.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _remembered(path: Path, fingerprint: str, root: Path, found: dict[str, Files], side: int) -> dict[str, Tensor]:
    """The tensors in the cache at ``path``, if they have this fingerprint; else read, and kept there."""
    tensors: dict[str, Tensor] | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # slots that start together read the folder once
            tensors = _cached(path, fingerprint)
            if tensors is None:
                tensors = _read_all(root, found, side)
                clear_leftovers(path)
                save_tensors(path, {"fingerprint": fingerprint, "images": tensors})
    except OSError as error:
        warnings.warn(f"images are not cached ({error}); set DROPOPT_CACHE to a folder with space", stacklevel=2)
    return tensors if tensors is not None else _read_all(root, found, side)


def _cached(path: Path, fingerprint: str) -> dict[str, Tensor] | None:
    # Whatever is wrong with a cache's file, the remedy is to make it again.
    with suppress(Exception):
        content = load_tensors(path)
        if content["fingerprint"] == fingerprint:
            images: dict[str, Tensor] = content["images"]
            return images
    return None
