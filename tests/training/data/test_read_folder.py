"""Folders of images: which files are read, how they are decoded, and what notices and errors say."""

import os
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from samples import folder, images, npz, refused

from dropopt.config import DataConfig
from dropopt.training import load_data
from dropopt.training.data import read_folder as module
from dropopt.training.data.read_folder import _read_all
from dropopt.training.data.read_image import SUFFIXES, read_image

pytestmark = pytest.mark.usefixtures("cache")


#: What to do about images that cannot be read.
ADVICE = "; repair such files, or move them out of the folder"


def png16(path, pixels):
    """Write (H, W, C) as a PNG of 16 bits per colour, which Pillow cannot; C = 4 has transparency."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def tiff(path, pixels, sample_format):
    """Write (H, W) as a TIFF of the array's own type: 1 is unsigned, 2 signed, 3 floating point."""
    data, (height, width) = pixels.tobytes(), pixels.shape
    tags = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(header + data + struct.pack("<H", len(tags)) + rows + struct.pack("<I", 0))


class TestFolder:
    """One folder of images per class."""

    @pytest.mark.parametrize(
        ("names", "sizes"),
        [
            (("",), [13, 3, 4]),
            (("train", "validation", "test"), [20, 6, 8]),
            (("train", "val", "test"), [20, 6, 8]),
            (("Train", "Test"), [16, 4, 8]),
            (("training", "testing"), [16, 4, 8]),
        ],
    )
    def test_own_splits_are_used(self, tmp_path, names, sizes):
        """train/, validation/ (or val/) and test/ are splits, not classes; missing ones are drawn."""
        for name in names:
            folder(tmp_path / name, n=10 if name == names[0] else 4 if name == names[-1] else 3)
        data = load_data(DataConfig(name=f"folder:{tmp_path}"))
        assert data.classes == ("cat", "dog")
        assert [len(split) for split in data.splits().values()] == sizes
        assert data.train.images.shape[1:] == (3, 10, 10)  # the shorter side

    def test_the_default_size_is_the_median(self, tmp_path, monkeypatch):
        for number, size in enumerate([(9, 8), (60, 40), (12, 30), (12, 13), (11, 50)]):
            name = folder(tmp_path / "tree", classes=("cat", "dog"), n=2, size=size)
            for kind in ("cat", "dog"):
                for i in range(2):
                    (tmp_path / "tree" / kind / f"{i}.png").rename(tmp_path / "tree" / kind / f"{number}-{i}.png")
        assert load_data(DataConfig(name=name)).image_size == (12, 12)
        monkeypatch.setattr(module, "SIZE_SAMPLE", 2)  # the first file of each class
        assert load_data(DataConfig(name=name)).image_size == (8, 8)

    def test_one_colour_image_gives_three_channels(self, tmp_path):
        folder(tmp_path / "tree", classes=("cat",), n=10)
        data = load_data(DataConfig(name=folder(tmp_path / "tree", classes=("dog",), n=10, mode="L")))
        assert data.channels == 3

    def test_images_are_read_once(self, tmp_path, monkeypatch):
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

    @pytest.mark.skipif(sys.platform != "linux", reason="names of files are text")
    def test_a_name_that_is_no_text(self, tmp_path):
        """Linux allows any bytes in a name."""
        name = folder(tmp_path / "tree")
        (tmp_path / "tree" / "cat" / "0.png").rename(os.fsdecode(bytes(tmp_path / "tree" / "cat") + b"/\xff.png"))
        (tmp_path / "tree").rename(linked := os.fsdecode(bytes(tmp_path) + b"/\xff"))
        (tmp_path / "tree").symlink_to(linked)
        assert len(load_data(DataConfig(name=name, image_size=8)).train) > 0

    def test_swapped_files_with_old_times_are_read_again(self, tmp_path):
        name = folder(tmp_path / "tree", n=10, size=(8, 8))
        cat, dog = (tmp_path / "tree" / kind / "0.bmp" for kind in ("cat", "dog"))
        for path in (cat, dog):
            Image.fromarray(images(8, 8, 3)).save(path)
            os.utime(path, ns=(10**18, 10**18))
        first = load_data(DataConfig(name=name))
        swap = tmp_path / "swap"
        cat.rename(swap), dog.rename(cat), swap.rename(dog)
        assert load_data(DataConfig(name=name)).fingerprint != first.fingerprint

    def test_a_full_disk_does_not_read_twice(self, tmp_path, monkeypatch):
        times = []
        monkeypatch.setattr(module, "_read_all", lambda *given: times.append(1) or _read_all(*given))

        def full(*_args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "save_tensors", full)
        with pytest.warns(UserWarning, match="No space left"):
            load_data(DataConfig(name=folder(tmp_path / "tree")))
        assert times == [1]

    def test_temporary_files_of_killed_processes_are_removed(self, tmp_path, cache):
        name = folder(tmp_path / "tree")
        load_data(DataConfig(name=name))
        (kept,) = (cache / "folders").glob("*.pt")
        left = kept.with_name(f".{kept.name}.abc.tmp")
        left.write_bytes(b"half")
        kept.unlink()
        load_data(DataConfig(name=name))
        assert not left.exists()

    def test_without_a_cache_folder_there_is_a_warning(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("DROPOPT_CACHE", str(tmp_path / "file"))
        with pytest.warns(UserWarning, match="not cached"):
            assert len(load_data(DataConfig(name=folder(tmp_path / "tree"))).train) == 6

    def test_damaged_images_are_named(self, tmp_path):
        tree = tmp_path / "tree"
        name = folder(tree, n=4, size=(40, 40))
        victim = tree / "dog" / "2.png"
        content = victim.read_bytes()
        for damage in (content[: len(content) // 2], b"not an image", b"", content[:20]):
            victim.write_bytes(damage)
            assert refused(name, image_size=8) in (
                f"{victim} cannot be read as an image: {reason}{ADVICE}"
                for reason in ("not an image, or damaged", "image file is truncated", "Truncated File Read")
            )

    def test_all_damaged_images_are_named(self, tmp_path):
        name = folder(tmp_path / "tree")
        broken = [tmp_path / "tree" / "cat" / f"a{number}.jpg" for number in range(5)]
        for path in broken:
            path.write_bytes(b"\xff\xd8 cut off")
        message = refused(name)
        assert message.startswith(f"{broken[0]} cannot be read as an image: ")
        assert f"; nor can {broken[1]}, {broken[2]}, {broken[3]} and 1 more; repair such files, or move them" in message
        for path in broken:
            path.unlink()
        assert len(load_data(DataConfig(name=name)).train) > 0

    def test_invalid_trees_are_refused(self, tmp_path):
        def message(name):
            return refused(f"folder:{tmp_path / name}").replace(f"{tmp_path}/", "")

        needed = "must have a subfolder for each of two or more classes, has"
        assert message("nowhere").startswith("nowhere: no such folder; name yours, as in --data folder:PATH (")
        folder(tmp_path / "one", classes=("cat",))
        assert message("one") == f"one {needed} ['cat']"
        (tmp_path / "zero").mkdir()
        assert message("zero") == f"zero {needed} none"
        (tmp_path / "two" / "train" / "empty").mkdir(parents=True)
        folder(tmp_path / "two" / "train")
        assert message("two") == f"two/train/empty: the class is empty; it has no files {', '.join(SUFFIXES)}"
        folder(tmp_path / "three" / "train")
        folder(tmp_path / "three" / "test", classes=("cat", "wolf"))
        assert message("three") == "class 'wolf' is in three/test but not in three/train"
        folder(tmp_path / "four" / "testing")
        there = "four has a folder testing (test) but no folder train with a subfolder per class"
        assert message("four") == there
        folder(tmp_path / "five", classes=("train", "test"))
        assert message("five") == f"five/test {needed} none"
        folder(tmp_path / "six", n=2)
        assert message("six") == "folder:six: test: class 'cat' has 2 images, at least 3 are needed"
        folder(tmp_path / "eight" / "train", n=3)
        (tmp_path / "eight" / "test").mkdir()
        assert message("eight") == "eight/test has no class folders; put its images into them, or move it away"
        folder(tmp_path / "seven" / "val", n=2)
        folder(tmp_path / "seven" / "Valid", n=2)
        assert message("seven") == "seven has both Valid and val; keep one of them"

    def test_a_class_missing_from_a_split_is_reported(self, tmp_path):
        folder(tmp_path / "train", n=10)
        folder(tmp_path / "test", classes=("dog",), n=2)
        data = load_data(DataConfig(name=f"folder:{tmp_path}"))
        assert data.notices == [f"folder:{tmp_path}: test has no images of cat"]
        assert data.test.labels.tolist() == [1, 1]

    def test_a_class_may_be_called_train(self, tmp_path):
        """A folder train next to other classes, without subfolders, is a class."""
        assert load_data(DataConfig(name=folder(tmp_path / "tree", classes=("car", "train")))).classes == (
            "car",
            "train",
        )

    def test_notices_name_what_is_left_out(self, tmp_path):
        """Folders next to train, images and broken links in no class and files of other types; not hidden files."""
        tree = tmp_path / "tree"
        folder(tree / "train", n=10)
        folder(tree / "dev", n=2)
        (tree / "train" / "cat" / "a.heic").write_bytes(b"")
        (tree / "train" / "dog" / "b.HEIC").write_bytes(b"")
        (tree / "train" / "dog" / "notes").write_bytes(b"")
        (tree / "train" / "dog" / ".hidden").write_bytes(b"")
        (tree / "train" / "__MACOSX").mkdir()
        (tree / "train" / "c.png").write_bytes(b"")
        (tree / "train" / "._c.png").write_bytes(b"")
        (tree / "train" / "wolf").symlink_to(tmp_path / "nowhere")
        data = load_data(DataConfig(name=f"folder:{tree}"))
        assert data.classes == ("cat", "dog")
        assert data.notices == [
            f"folder:{tree}: folders next to train are left out: dev",
            f"folder:{tree}: 1 image in no class folder is left out",
            f"folder:{tree}: links that lead nowhere are left out: wolf",
            f"folder:{tree}: 3 files of other types are left out: 2 .heic, 1 without a suffix",
        ]

    @pytest.mark.parametrize("place", ["@eaDir", "__MACOSX", ".thumbnails"])
    def test_system_folders_are_left_out(self, tmp_path, place):
        """Thumbnails in system folders, at every level, are no images of any class; a notice counts them."""
        clean, tree = tmp_path / "clean", tmp_path / "tree"
        for root in (clean, tree):
            for split, n in (("train", 10), ("test", 4)):
                folder(root / split, n=n)
        for level in ("", "train", "train/cat", "train/cat/nested", "test", "test/dog"):
            thumbnails = tree / level / place / "1.jpg"
            thumbnails.mkdir(parents=True)
            for size in ("S", "M"):
                Image.fromarray(images(4, 4, 3)).save(thumbnails / f"THUMB_{size}.jpg")
        (tree / "train" / "cat" / "Thumbs.db").write_bytes(b"")
        (tree / "train" / "cat" / "._1.jpg").write_bytes(b"")
        data = load_data(DataConfig(name=f"folder:{tree}"))
        assert data.classes == ("cat", "dog")
        expected = load_data(DataConfig(name=f"folder:{clean}"))
        assert [len(split) for split in data.splits().values()] == [len(s) for s in expected.splits().values()]
        said = f"12 images in system or hidden folders are left out: 12 in {place}"
        assert data.notices == [f"folder:{tree}: {said}"]

    def test_the_format_is_read_from_the_content(self, tmp_path):
        """A JPEG may be called .jfif; PostScript, which Pillow would pass to Ghostscript, is refused."""
        name = folder(tmp_path / "tree")
        victim = tmp_path / "tree" / "cat" / "0.jfif"
        Image.fromarray(images(8, 8, 3)).save(victim, "JPEG")
        assert sum(len(split) for split in load_data(DataConfig(name=name)).splits().values()) == 11
        Image.fromarray(images(8, 8, 3)).save(victim, "EPS")
        message = refused(name)
        assert f"{victim} cannot be read as an image" in message

    def test_invalid_paths_are_refused(self, tmp_path, monkeypatch):
        """An unknown user, a name that is too long and a path without its prefix give one line each."""
        assert "the home folder of that user is unknown" in refused("folder:~nobody-here/x")
        assert "the home folder of that user is unknown" in refused("mnist", root="~nobody-here/x")
        said = refused(f"folder:{tmp_path}/{'a' * 300}")
        assert "cannot be read: File name too long" in said or "no such folder" in said  # from Python 3.14 on
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photographs").mkdir()
        assert "is a path; did you mean 'folder:photographs'?" in refused("photographs")
        assert "did you mean 'cifar10'?" in refused("CIFAR-10")

    def test_links_are_followed_once(self, tmp_path):
        """Symbolic links to class folders, and inside of them, are read; a link to a folder above adds no copies."""
        folder(tmp_path / "real", n=10)
        (tmp_path / "tree").mkdir()
        for name in ("cat", "dog"):
            (tmp_path / "tree" / name).symlink_to(tmp_path / "real" / name)
        (tmp_path / "real" / "cat" / "again").symlink_to(tmp_path / "real" / "cat")
        folder(tmp_path / "more", classes=("tabby",), n=2)
        (tmp_path / "real" / "cat" / "tabby").symlink_to(tmp_path / "more" / "tabby")
        data = load_data(DataConfig(name=f"folder:{tmp_path / 'tree'}"))
        assert sum(len(split) for split in data.splits().values()) == 22


class TestPrecision:
    """Every file keeps the grey levels that it has."""

    def pictures(self, tmp_path, save, top):
        """The images of a folder saved by ``save``, and of a NumPy file with the same values."""
        rng = np.random.default_rng(0)
        x = rng.integers(0, top + 1, (20, 8, 8))
        for number, image in enumerate(x):
            path = tmp_path / "tree" / "ab"[number % 2] / f"{number // 2}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, image)
        order = [*range(0, 20, 2), *range(1, 20, 2)]  # as the folder is read
        return (
            load_data(DataConfig(name=f"folder:{tmp_path / 'tree'}")),
            load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x[order].astype(np.int64), y=[0] * 10 + [1] * 10))),
        )

    @pytest.mark.parametrize("top", [65535, 1023])
    @pytest.mark.parametrize("kind", ["png", "tiff", "pgm", "int32", "float"])
    def test_levels_are_those_of_the_same_array(self, tmp_path, kind, top):
        """However few of their bits the pixels use, a folder of files equals the array that they were made from."""
        save = {
            "png": lambda path, x: Image.fromarray(x.astype(np.uint16)).save(path),
            "tiff": lambda path, x: Image.fromarray(x.astype(np.uint16)).save(path, "TIFF"),
            "pgm": lambda path, x: path.write_bytes(b"P5 8 8 65535\n" + x.astype(">u2").tobytes()),
            "int32": lambda path, x: Image.fromarray(x.astype(np.int32)).save(path, "TIFF"),
            "float": lambda path, x: Image.fromarray(x.astype(np.float32)).save(path, "TIFF"),
        }[kind]
        files, array = self.pictures(tmp_path, save, top)
        assert files.fingerprint == array.fingerprint
        assert torch.equal(files.train.images, array.train.images)
        assert files.notices == []
        assert files.pixels.white == (None if kind in ("int32", "float") else 65535)

    @pytest.mark.parametrize(
        ("mode", "value", "shown"),
        [
            *(("1", 1, (255,) * 3), ("L", 77, (77,) * 3), ("LA", (77, 51), (219,) * 3), ("RGB", (1, 2, 3), (1, 2, 3))),
            *(("P", (200, 0, 0), (200, 0, 0)), ("CMYK", (0, 255, 0, 0), (255, 0, 255))),
            ("RGBA", (0, 0, 0, 51), (204,) * 3),
        ],
    )
    def test_8_bits_become_colours(self, tmp_path, mode, value, shown):
        """1-bit, greyscale, palette and CMYK files become RGB in uint8. What is transparent is mixed with white."""
        image = Image.new("RGB" if mode == "P" else mode, (8, 8), value)
        image = image.quantize(2) if mode == "P" else image
        path = tmp_path / "a.tiff"
        image.save(path)
        pixels = read_image(path, 8)
        assert pixels.array.dtype == np.uint8
        assert pixels.array[:, 3, 3].tolist() == list(shown)
        assert pixels.grey == (mode in ("1", "L"))

    @pytest.mark.parametrize(
        ("value", "sample_format"),
        [(np.uint32(3e9), 1), (np.int32(-5), 2), (np.int16(-5), 2), (np.uint16(40_000), 1), (np.float32(0.25), 3)],
    )
    def test_tiff_types_keep_their_values(self, tmp_path, value, sample_format):
        """Signed, unsigned and floating-point pixels of a TIFF are read as they are."""
        tiff(tmp_path / "a.tiff", np.full((8, 8), value), sample_format)
        assert (read_image(tmp_path / "a.tiff", 8).array == np.float32(value)).all()

    def test_8_and_16_bits_share_white(self, tmp_path):
        """In a folder with both, 255 and 65535 are the same level, whichever comes first, and a notice counts them."""
        x = images(20, 8, 8)
        for deep_first in (True, False):
            tree = tmp_path / str(deep_first)
            for number, image in enumerate(x):
                path = tree / "ab"[number % 2] / f"{number:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                deep = (number < 6) == deep_first
                Image.fromarray(image * np.uint16(257) if deep else image).save(path)
            order = [*range(0, 20, 2), *range(1, 20, 2)]
            y = [0] * 10 + [1] * 10
            wide = npz(tmp_path / "a.npz", x=x[order].astype(np.uint16) * 257, y=y)
            data = load_data(DataConfig(name=f"folder:{tree}"))
            assert torch.equal(data.train.images, load_data(DataConfig(name=wide)).train.images)
            count = 6 if deep_first else 14
            (notice,) = data.notices
            assert notice.removeprefix(f"{data.name}: ") == (
                f"{count} images with 16 bits and {20 - count} with 8: 255 and 65535 are both white; rescale the "
                "former if they use fewer bits"
            )
            assert data.pixels.white == 65535
            assert load_data(DataConfig(name=f"folder:{tree}")).notices == data.notices  # from the cache

    @pytest.mark.parametrize("kind", ["png", "png alpha", "ppm"])
    def test_16_bits_per_colour_are_truncated_with_a_notice(self, tmp_path, kind):
        """The upper 8 bits are used and a notice says so; if the upper bits are empty, the folder is refused."""
        name = folder(tmp_path / "tree", n=10, size=(8, 8))
        for top in (65536, 4096):
            pixels = np.random.default_rng(0).integers(0, top, (8, 8, 3))
            if kind == "ppm":
                path = tmp_path / "tree" / "cat" / "0.ppm"
                path.write_bytes(b"P6 8 8 65535\n" + pixels.astype(">u2").tobytes())
            else:
                path = tmp_path / "tree" / "cat" / "0.png"
                png16(path, np.dstack([pixels, np.full((8, 8), 65535)]) if kind == "png alpha" else pixels)
            if top == 65536:
                assert np.abs(read_image(path, 8).array - pixels.transpose(2, 0, 1) / 257).max() < 1
                said = "1 image has 16 bits per colour, of which the upper 8 are used"
                assert load_data(DataConfig(name=name)).notices == [f"{name}: {said}"]
            else:
                assert refused(name) == (
                    f"{name}: 1 image has 16 bits per colour, of which fewer than 15 are used and the upper 8 would be "
                    "read; save them with 8 bits, or use numpy:FILE.npz"
                )

    def test_resizing_keeps_the_scale(self, tmp_path):
        """Files of 16 bits are resized as those of 8 are, within the rounding of the latter."""
        x = np.random.default_rng(0).integers(0, 256, (40, 24)).astype(np.uint8)
        Image.fromarray(x).save(tmp_path / "a.png")
        Image.fromarray(x * np.uint16(257)).save(tmp_path / "b.png")
        shallow, deep = (read_image(tmp_path / name, 8).array for name in ("a.png", "b.png"))
        assert np.abs(shallow - deep / 257).max() < 2
        assert len(np.unique(deep)) == 64
        Image.fromarray(np.kron([[0, 1], [1, 0]], np.full((4, 4), 65535)).astype(np.uint16)).save(tmp_path / "c.png")
        edges = read_image(tmp_path / "c.png", 24).array
        assert (edges.min(), edges.max()) == (0, 65535)  # interpolation overshoots at edges

    def test_what_has_no_common_scale_is_refused(self, tmp_path):
        name = folder(tmp_path / "tree")
        victim = tmp_path / "tree" / "cat" / "0.tiff"
        Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(victim)
        assert refused(name) == (
            f"{victim} has pixels of 32 bits, which have no common scale with those of {victim.with_suffix('.png')}; "
            "save all images with 8 or 16 bits, or use numpy:FILE.npz"
        )
        Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(victim)
        reason = "it holds values that are not finite"
        assert refused(name) == f"{victim} cannot be read as an image: {reason}{ADVICE}"
