"""Arrays from .npz files: layouts, labels, and errors that name the file."""

import io
import zipfile

import numpy as np
import pytest
from samples import MakesFolder, images, npz, refused

from dropopt.config import ConfigError, DataConfig
from dropopt.training import load_data
from dropopt.training.data.read_arrays import from_arrays

ARRAYS = "x, y, x_validation, y_validation, x_test, y_test, classes"
#: What an error says about samples or targets that are no images with classes.
TENSORS = "write a function that returns torch.utils.data.TensorDataset(x, y)"
SHAPES = ": x must be (N, H, W), (N, H, W, C) or (N, C, H, W) and not empty"
LABELS = ": y must be (N,) integers or names"
X, Y = images(6, 5, 5), np.arange(6) % 2


class TestNumpy:
    """.npz files."""

    def test_every_image_keeps_its_label(self, tmp_path):
        y, test = np.array([30, 10, 20] * 10), np.array([20, 30, 10, 10])
        arrays = {"x": y[:, None, None] * np.ones((1, 5, 5)), "x_test": test[:, None, None] * np.ones((1, 5, 5))}
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", **arrays, y=y, y_test=test)))
        for split in data.splits().values():
            shown = split.images[:, 0, 0, 0] * data.std[0] + data.mean[0]
            names = [data.classes[label] for label in split.labels.tolist()]
            assert [str(round(value)) for value in shown.tolist()] == names

    def test_splits_on_different_scales_are_refused(self, tmp_path):
        """A test split in [0, 1] is refused if training images reach 255; integers of two widths are allowed."""
        x, y = images(20, 5, 5), np.arange(20) % 2
        for test in (x[:4] / 255, x[:4] > 99):
            message = refused(npz(tmp_path / "a.npz", x=x, y=y, x_test=test, y_test=y[:4]))
            path = tmp_path / "a.npz"
            rest = f"x_test is {test.dtype}, x is uint8; give all images the same type and scale"
            assert message == f"numpy:{path}: {rest}"
        wide = npz(tmp_path / "b.npz", x=x, y=y, x_test=x[:4].astype(np.int32), y_test=y[:4])
        counts = load_data(DataConfig(name=wide)).duplicates
        assert counts["train/test"] + counts["validation/test"] == 4

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"x": X}, " must have x and y (or images and labels), got: x"),
            ({"y": Y}, " must have x and y (or images and labels), got: y"),
            ({"x": X, "y": Y[:5]}, ": x has 6 images, y 5 labels"),
            ({"x": X[:, 0], "y": Y}, f"{SHAPES}, got (6, 5); for other samples, {TENSORS}"),
            ({"x": X[:, :0], "y": Y}, f"{SHAPES}, got (6, 1, 0, 5)"),
            ({"x": X * 1j, "y": Y}, ": x must hold numbers, got complex128"),
            ({"x": X.astype(str), "y": Y}, ": x must hold numbers, got <U3"),
            ({"x": np.full((6, 5, 5), np.nan), "y": Y}, ": x holds values that are not finite"),
            ({"x": np.full((6, 5, 5), 1e300), "y": Y}, ": x holds values that are not finite"),
            ({"x": X, "y": 0 * Y}, ": at least two classes are needed, got ['0']"),
            ({"x": X, "y": Y / 3}, f"{LABELS}, got float64 of shape (6,); for other targets, {TENSORS}"),
            ({"x": X, "y": Y * 1.0}, f"{LABELS}, got float64 of shape (6,); convert them with .astype(int)"),
            (
                {"x": X, "y": Y / 3, "classes": ["a", "b"]},
                f"{LABELS}, got float64 of shape (6,); for other targets, {TENSORS}",
            ),
            (
                {"x": X, "y": [[0, 1]] * 6},
                f"{LABELS}, got int64 of shape (6, 2); convert one-hot rows with .argmax(1)",
            ),
            (
                {"x": X, "y": [[0, 1], [1, 1]] * 3},
                f"{LABELS}, got int64 of shape (6, 2); for other targets, {TENSORS}",
            ),
            ({"x": X, "y": Y, "y_train": Y}, ": y is given twice, also as 'y_train'"),
            ({"x": X, "y": Y, "z": [1]}, f": unknown array 'z'; known: {ARRAYS}"),
            ({"x": X, "y": Y, "x_test": X[:2]}, ": x_test and y_test must be given together"),
            (
                {"x": X, "y": Y, "x_test": images(2, 5, 6), "y_test": [0, 1]},
                ": test images are 1x5x6, training images 1x5x5; all images must have the same size",
            ),
            ({"x": X, "y": Y, "x_test": X[:2], "y_test": [0, 7]}, ": class '7' is in y_test but not in y"),
            ({"x": X, "y": Y, "classes": ["a", "b", "c"]}, ": class 'c' has no training images"),
            ({"x": X, "y": Y, "classes": "ab"}, ": classes must be a list of names, got an array of shape ()"),
            ({"x": X, "y": Y, "classes": ["a", "a"]}, ": class names must differ, got 'a' twice"),
            ({"x": X[:4], "y": [0, 0, 0, 1]}, ": test: class '1' has 1 image, at least 3 are needed"),
        ],
    )
    def test_errors_are_one_line_with_the_file(self, tmp_path, arrays, said):
        name = npz(tmp_path / "bad.npz", **arrays)
        assert refused(name) == name + said

    def test_names_that_are_python_objects(self):
        """A column of a table often holds its names as objects; the message says how to convert them."""
        with pytest.raises(ConfigError) as caught:
            from_arrays("a", {"x": images(6, 5, 5), "y": np.array(["a", "b"] * 3, dtype=object)})
        advice = "convert names with .astype(str), numbers with .astype(int)"
        assert str(caught.value) == f"a: y must be (N,) integers or names, got object of shape (6,); {advice}"

    def test_damaged_files_are_named(self, tmp_path):
        """Those cut off, with a damaged array, or with a header that cannot be parsed."""
        np.savez_compressed(tmp_path / "a.npz", x=images(50, 9, 9), y=np.arange(50) % 2)
        content = (tmp_path / "a.npz").read_bytes()
        damaged = [content[:cut] for cut in (0, 10, len(content) // 2, len(content) - 30)]
        damaged.append(content[:1500] + bytes(10) + content[1510:])  # the checksum of the array reveals it
        for header in (b"{'descr': '|u1', 'fortran_order': (", b"{'descr' '|u1'"):
            text, archive = header.ljust(117) + b"\n", io.BytesIO()
            with zipfile.ZipFile(archive, "w") as file:
                file.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
            damaged.append(archive.getvalue())
        for number, bad in enumerate(damaged):
            (tmp_path / "bad.npz").write_bytes(bad)
            message = refused(f"numpy:{tmp_path / 'bad.npz'}")
            assert message.startswith(f"{tmp_path / 'bad.npz'}"), number
            assert not message.endswith(": "), number

    def test_missing_and_foreign_files_are_named(self, tmp_path):
        """A missing file, a text file and a single array."""
        assert refused(f"numpy:{tmp_path / 'none.npz'}").startswith(f"{tmp_path / 'none.npz'}: no such file; name")
        (tmp_path / "text.npz").write_text("hello")
        text = refused(f"numpy:{tmp_path / 'text.npz'}")
        assert text.startswith(f"{tmp_path / 'text.npz'} is not a .npz file: ")
        assert "pickle" in text, "NumPy's reason"
        np.save(tmp_path / "lone.npy", images(4, 4))
        lone = f"{tmp_path / 'lone.npy'} is a single array; expected a .npz file with x and y"
        assert refused(f"numpy:{tmp_path / 'lone.npy'}") == lone

    def test_objects_in_a_file_are_refused_and_never_run(self, tmp_path):
        ragged = np.empty(4, dtype=object)
        ragged[:] = [images(5, 5), images(6, 6), images(5, 5), images(5, 5)]
        name = npz(tmp_path / "ragged.npz", x=ragged, y=np.arange(4) % 2)
        objects = "holds Python objects"
        of_sizes = f"{tmp_path / 'ragged.npz'}: array 'x' {objects} (images of several sizes?); expected numbers"
        assert refused(name) == of_sizes
        words = np.array(["a", "b", "a", "b"], dtype=object)
        of_names = f"array 'y' {objects} (names? convert them with .astype(str)); expected numbers"
        assert refused(npz(tmp_path / "o.npz", x=images(4, 5, 5), y=words)) == f"{tmp_path / 'o.npz'}: {of_names}"
        evil = np.empty(1, dtype=object)
        evil[0] = MakesFolder(tmp_path / "ran")
        refused(npz(tmp_path / "evil.npz", x=evil, y=np.arange(1)))
        assert not (tmp_path / "ran").exists()
