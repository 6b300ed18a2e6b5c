"""A folder of images, one subfolder per class, resized once and cached as tensors.

PATH/cat/1.jpg ...                                 all images; the splits are drawn
PATH/train/cat/1.jpg ..., PATH/test/cat/2.jpg ...  with its own splits; also PATH/validation or PATH/val

Notices name what is left out: folders next to train, images in no class folder or in system folders, links that lead
nowhere, and files of other types.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from dropopt.config import ConfigError
from dropopt.explain import no_data
from dropopt.files import cache_folder, clear_leftovers, load_tensors, save_tensors
from dropopt.numbers import quantity
from dropopt.training.data import system_files
from dropopt.training.data.progress import tracked
from dropopt.training.data.read_image import SUFFIXES, image_size, read_image
from dropopt.training.data.read_many import attempt, readable
from dropopt.training.data.source import Source
from dropopt.training.data.split import Split
from dropopt.training.data.stack import Stack
from dropopt.training.data.system_files import count_images, is_system

#: Without an image_size, larger images are reduced to this side: enough for a CNN trained from scratch on a CPU.
LARGEST_DEFAULT = 64
#: Number of image headers read to find the default size.
SIZE_SAMPLE = 200
#: Part of the fingerprint: increase it when reading or resizing changes.
VERSION = 4

#: Names of the split folders, compared without case.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}

Files = list[tuple[Path, int]]


def read_folder(root: Path, side: int | None) -> Source:
    """Read the images under ``root``, resized to squares of ``side`` pixels (default: their median, at most 64)."""
    try:
        if not root.is_dir():
            raise ConfigError(no_data(root, "folder"))
        root = root.resolve()
        folders, remarks = _layout(root)
        classes = _classes(folders["train"])
        remarks += _beside_classes(root, folders)
        skipped, others = _system_images(root, folders), Counter[str]()
        found = {name: _files(folder, classes, folders["train"], skipped, others) for name, folder in folders.items()}
        side = side or _default_side([path for path, _ in found["train"]])
        fingerprint = _fingerprint(root, found, side)
    except OSError as error:
        raise ConfigError(f"{error.filename or root} cannot be read: {error.strerror or error}") from None
    place = hashlib.sha256(f"{root} {side}".encode(errors="surrogateescape")).hexdigest()[:20]
    images = _remembered(cache_folder() / "folders" / f"{place}.pt", fingerprint, root, found, side)
    remarks += images.remarks
    splits = {
        name: Split(images.splits[name], torch.tensor([label for _, label in files], dtype=torch.int64))
        for name, files in found.items()
    }
    remarks += system_files.remark(skipped)
    if others:
        kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in others.most_common(3))
        are = "is" if others.total() == 1 else "are"
        remarks.append(f"{quantity(others.total(), 'file')} of other types {are} left out: {kinds}")
    return Source(
        name=f"folder:{root}",
        classes=classes,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        remarks=tuple(remarks),
        white=images.white,
        files=True,
    )


# -- which files


def _layout(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split in the tree, and remarks about the layout.

    A folder named after a split but without subfolders is a class: photographs of trains, for example.
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
        remarks = [f"folders next to {found['train'].name} are left out: {', '.join(beside)}"] if beside else []
        return found, remarks
    for split in holding:
        raise ConfigError(
            f"{root} has a folder {found[split].name} ({split}) but no folder train with a subfolder per class"
        )
    if found and len(found) == len(top):
        raise ConfigError(f"{root / top[0]} must have a subfolder for each of two or more classes, has none")
    return {"train": root}, []


def _classes(folder: Path) -> tuple[str, ...]:
    names = _subfolders(folder)
    if len(names) < 2:
        raise ConfigError(f"{folder} must have a subfolder for each of two or more classes, has {names or 'none'}")
    return tuple(names)


def _subfolders(folder: Path) -> list[str]:
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    return sorted(name for name in names if not is_system(name))


def _system_images(root: Path, folders: dict[str, Path]) -> Counter[str]:
    """Images in system folders next to the split folders and the class folders, counted by the folder's name."""
    skipped: Counter[str] = Counter()
    for folder in {root, *folders.values()}:
        for entry in folder.iterdir():
            if is_system(entry.name) and entry.is_dir():
                skipped[entry.name] += count_images(entry, SUFFIXES)
    return skipped


def _beside_classes(root: Path, folders: dict[str, Path]) -> list[str]:
    """Remarks about images and broken links next to the split folders and the class folders."""
    entries = [entry for folder in {root, *folders.values()} for entry in folder.iterdir()]
    broken = sorted(entry.name for entry in entries if not entry.exists())
    loose = sum(entry.suffix.lower() in SUFFIXES and not is_system(entry.name) and entry.is_file() for entry in entries)
    are = "is" if loose == 1 else "are"
    remarks = [f"{quantity(loose, 'image')} in no class folder {are} left out"] if loose else []
    return remarks + ([f"links that lead nowhere are left out: {', '.join(broken)}"] if broken else [])


def _files(folder: Path, classes: tuple[str, ...], train: Path, skipped: Counter[str], others: Counter[str]) -> Files:
    """Image files with their class numbers, sorted by name.

    ``skipped`` counts images in system folders by the folder's name, and ``others`` files of other types by suffix.
    """
    files: Files = []
    for name in _subfolders(folder):
        if name not in classes:
            raise ConfigError(f"class {name!r} is in {folder} but not in {train}")
        paths = list(_walk(folder / name, skipped))
        inside = sorted(path for path in paths if path.suffix.lower() in SUFFIXES)
        others.update(path.suffix.lower() for path in paths if path.suffix.lower() not in SUFFIXES)
        if not inside:
            raise ConfigError(f"{folder / name}: the class is empty; it has no files {', '.join(SUFFIXES)}")
        files += [(path, classes.index(name)) for path in inside]
    if not files:
        raise ConfigError(f"{folder} has no class folders; put its images into them, or move it away")
    return files


def _walk(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """All files below ``folder``, except those of the system.

    Symbolic links are followed unless they lead to a folder above.
    """
    above: dict[str, frozenset[str]] = {str(folder): frozenset({os.path.realpath(folder)})}
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        seen = above.pop(here)
        for name in filter(is_system, folders):
            skipped[name] += count_images(Path(here, name), SUFFIXES)
        places = {name: os.path.realpath(os.path.join(here, name)) for name in folders if not is_system(name)}
        folders[:] = [name for name, place in places.items() if place not in seen]
        above |= {os.path.join(here, name): seen | {places[name]} for name in folders}
        yield from (Path(here) / name for name in names if not is_system(name))


def _raise(error: OSError) -> None:
    raise error


# -- their pixels


def _default_side(paths: list[Path]) -> int:
    """The median of the shorter sides of a sample of images, at most :data:`LARGEST_DEFAULT`."""
    sizes = [attempt(image_size)(path) for path in paths[:: max(1, len(paths) // SIZE_SAMPLE)]]
    shorter = [min(size) for size in sizes if not isinstance(size, ConfigError)]
    if not shorter:
        raise next(size for size in sizes if isinstance(size, ConfigError))
    return max(4, min(LARGEST_DEFAULT, int(statistics.median(shorter))))


@dataclass(frozen=True)
class _Images:
    """The images of each split, what to say about their precision, and the value of white if it is known."""

    splits: dict[str, Tensor]
    remarks: list[str]
    white: float | None


def _read_all(root: Path, found: dict[str, Files], side: int) -> _Images:
    """All images as (N, C, side, side): C = 1 if all are greyscale, else 3; uint8 if all have 8 bits, else float32."""
    paths = [path for files in found.values() for path, _ in files]
    stack = Stack(f"folder:{root}", len(paths), side)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the interpreter's lock while it decodes
        results = pool.map(attempt(lambda path: read_image(path, side)), paths)
        advice = "; repair such files, or move them out of the folder"
        for path, pixels in readable(paths, tracked(results, len(paths), "reading images"), advice):
            stack.add(path, pixels)
    parts = torch.split(stack.images(), [len(files) for files in found.values()])
    return _Images(dict(zip(found, parts, strict=True)), stack.remarks(), stack.white)


# -- cached


def _fingerprint(root: Path, found: dict[str, Files], side: int) -> str:
    """A hash that changes with any file's name, size or time, with ``side``, and with :data:`VERSION`.

    It covers the modification time and the status change time: a copied file may keep the former, but not the latter.
    """
    digest = hashlib.sha256(f"{VERSION} {side}".encode())
    for name, files in found.items():
        for path, label in files:
            state = path.stat()
            row = f"{name} {label} {path.relative_to(root)} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n"
            digest.update(row.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _remembered(path: Path, fingerprint: str, root: Path, found: dict[str, Files], side: int) -> _Images:
    """Return the images cached at ``path`` if their fingerprint matches; otherwise read the files and cache them."""
    images: _Images | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # processes that start together read the folder once
            images = _cached(path, fingerprint)
            if images is None:
                images = _read_all(root, found, side)
                clear_leftovers(path)
                content = {"images": images.splits, "remarks": images.remarks, "white": images.white}
                save_tensors(path, {"fingerprint": fingerprint, **content})
    except OSError as error:
        warnings.warn(f"images are not cached ({error}); set DROPOPT_CACHE to a folder with space", stacklevel=2)
    return images if images is not None else _read_all(root, found, side)


def _cached(path: Path, fingerprint: str) -> _Images | None:
    # Whatever is wrong with a cache file, the images can be read again.
    with suppress(Exception):
        content = load_tensors(path)
        if content["fingerprint"] == fingerprint:
            return _Images(content["images"], content["remarks"], content["white"])
    return None
