"""Data: splits that can be trusted, numbers that are known, arrays from files."""

import os
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import RNG, images, npz, refused

from dropopt.config import ConfigError, DataConfig
from dropopt.training import Dataset, Split, load_data, load_once
from dropopt.training.data.dataset import room
from dropopt.training.data.splits import stratified


class TestSplits:
    """Which image goes where."""

    def test_splits_are_disjoint_complete_and_stratified(self):
        """Every digit is in exactly one split, and each class has its share of each within one image."""
        data = load_data(DataConfig(name="digits"))
        sizes = {name: len(split) for name, split in data.splits().items()}
        assert sizes == {"train": 1150, "validation": 288, "test": 359}
        labels = torch.cat([split.labels for split in data.splits().values()])
        total = torch.bincount(labels)
        assert total.sum() == 1797
        for split in data.splits().values():
            share = total * len(split) / 1797
            assert (torch.bincount(split.labels, minlength=10) - share).abs().max() <= 1.5
        assert not any(data.duplicates.values())  # digits has no doubles, so no image is in two splits

    def test_split_seed_alone_decides(self):
        """The same seed gives the same splits, another seed others."""
        first, again = (load_data(DataConfig(name="digits")) for _ in range(2))
        other = load_data(DataConfig(name="digits", split_seed=1))
        assert first.fingerprint == again.fingerprint
        assert not set(first.fingerprint.values()) & set(other.fingerprint.values())

    def test_subset_is_exact_and_leaves_the_test_split_alone(self):
        """``subset`` images are trained and validated on, and the test images stay those of the whole set."""
        whole = load_data(DataConfig(name="digits"))
        part = load_data(DataConfig(name="digits", subset=200))
        assert len(part.train) + len(part.validation) == 200
        assert part.fingerprint["test"] == whole.fingerprint["test"]
        assert torch.bincount(part.train.labels).min() >= 15

    def test_subset_that_cannot_be_is_refused(self):
        """More images than there are, or too few for every class, are refused with the legal range."""
        assert "in [20, 1438]" in refused("digits", subset=19)
        assert "got 1500" in refused("digits", subset=1500)

    @given(
        sizes=st.lists(st.integers(2, 60), min_size=2, max_size=12),
        share=st.floats(0, 1),
        seed=st.integers(0, 9),
    )
    def test_stratified_is_exact_within_its_limits(self, sizes, share, seed):
        """Any legal count is met exactly; no class is left out or used up, and each is within one of its quota."""
        labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        low, high = len(sizes), sum(sizes) - len(sizes)
        count = round(low + share * (high - low))
        chosen = stratified(labels, count, least=1, spare=1, seed=seed, purpose="p")
        found = torch.bincount(labels[chosen], minlength=len(sizes))
        assert int(chosen.sum()) == count
        assert (found >= 1).all()
        assert (found < torch.tensor(sizes)).all()
        quota = torch.tensor(sizes) * count / sum(sizes)
        inside = (quota >= 1) & (quota <= torch.tensor(sizes) - 1)
        if inside.all():
            assert ((found - quota).abs() < 1 + 1e-6).all()

    def test_own_splits_are_kept(self, tmp_path):
        """A test and a validation split that a data set brings are used as they are."""
        arrays = {"x": images(20, 6, 6), "x_val": images(6, 6, 6), "x_test": images(8, 6, 6)}
        labels = {"y": np.arange(20) % 2, "y_val": np.arange(6) % 2, "y_test": np.arange(8) % 2}
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", **arrays, **labels)))
        assert [len(split) for split in data.splits().values()] == [20, 6, 8]
        back = data.test.images * data.std[0] + data.mean[0]
        assert np.abs(back[:, 0].numpy() - arrays["x_test"]).max() < 1e-3


class TestNumbers:
    """What the tensors hold, and what is known about them."""

    def test_training_statistics_normalise_every_split(self, tmp_path):
        """Training images have mean 0 and deviation 1 per channel; the others are on the same scale."""
        x = RNG.normal((5, -3, 1e3), (2, 0.1, 10), (300, 5, 5, 3)).astype(np.float32)
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=np.arange(300) % 3)))
        train = data.train.images
        assert train.dtype == torch.float32
        assert train.mean((0, 2, 3)).abs().max() < 1e-4
        assert (train.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
        assert data.test.images.mean((0, 2, 3)).abs().max() < 0.2
        assert np.allclose(data.mean, (5, -3, 1e3), atol=1)

    @pytest.mark.parametrize("value", [0, 7, 12.3, 1000.1, 255, -1e-20])
    def test_a_constant_channel_only_moves(self, tmp_path, value):
        """A channel that never changes in training becomes 0, however its mean is rounded; elsewhere it is as far off
        as it was."""
        x, test = RNG.random((203, 2, 50, 50), dtype=np.float32), np.ones((2, 2, 50, 50), np.float32)
        x[:, 1], test[:, 1] = value, np.float32(value) + 1
        y = np.arange(203) % 2
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=y, x_test=test, y_test=[0, 1])))
        assert (data.train.images[:, 1] == 0).all()
        assert (data.test.images[:, 1] - 1).abs().max() < 1e-4

    @pytest.mark.parametrize("scale", [1e-30, 1e-9, 1, 1e9, 1e30])
    def test_any_scale_is_normalised(self, tmp_path, scale):
        """Numbers far from 1 are brought to a deviation of 1 as well."""
        x = (RNG.random((40, 5, 5)) * scale).astype(np.float32)
        train = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=np.arange(40) % 2))).train.images
        assert abs(train.std(correction=0).item() - 1) < 1e-4

    def test_what_no_float_can_scale_is_refused(self, tmp_path):
        """A range that overflows is told with the largest number."""
        x = np.full((40, 5, 5), 3e38, np.float32)
        x[:, 0] = -3e38
        message = refused(npz(tmp_path / "a.npz", x=x, y=np.arange(40) % 2))
        assert "float32 can scale, got up to 3e+38" in message

    def test_images_without_room_are_refused(self):
        """A size that no memory holds is one line with what it would take."""
        with pytest.raises(ConfigError, match=r"digits: 1000000000 images of 3x4096x4096 need 4.69e\+07 GiB"):
            room("digits", (10**9, 3, 4096, 4096), torch.uint8)

    def test_channels_lie_next_to_each_other(self, tmp_path):
        """Images are kept in channels_last memory, so that no epoch pays for the layout."""
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=images(20, 3, 5, 5), y=np.arange(20) % 2)))
        assert data.train.images.is_contiguous(memory_format=torch.channels_last)
        assert (data.channels, data.image_size) == (3, (5, 5))

    def test_fingerprint_sees_one_pixel(self, tmp_path):
        """A split's hash changes with a single value of it, and with nothing else."""
        x, y = images(40, 5, 5), np.arange(40) % 2
        first = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=y))).fingerprint
        x[7, 2, 2] ^= 1
        second = load_data(DataConfig(name=npz(tmp_path / "b.npz", x=x, y=y))).fingerprint
        assert sum(first[name] != second[name] for name in first) == 1

    def test_duplicates_across_splits_are_counted_and_told(self, tmp_path):
        """Exact copies of training images in the test split are counted, and there is a sentence to print."""
        x, test = images(30, 5, 5), images(10, 5, 5)
        test[:3] = x[4]
        arrays = {"x": x, "x_val": images(4, 5, 5), "x_test": test}
        labels = {"y": np.arange(30) % 2, "y_val": np.arange(4) % 2, "y_test": np.arange(10) % 2}
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", **arrays, **labels)))
        assert data.duplicates == {"train/validation": 0, "train/test": 3, "validation/test": 0}
        (notice,) = data.notices
        assert notice.endswith("3 of 10 test images are exact copies of train images")

    @pytest.mark.parametrize("size", [6, 20])
    def test_image_size_resizes_what_is_an_array(self, size):
        """Digits can be made smaller or larger; a mean colour stays itself."""
        data = load_data(DataConfig(name="digits", image_size=size))
        assert data.image_size == (size, size)
        assert abs(data.mean[0] - 4.88) < 0.2

    def test_load_once_keeps_the_last(self):
        """A process that asks again for the same data gets the very same tensors."""
        assert load_once(DataConfig(name="digits")) is load_once(DataConfig(name="digits"))

    def test_a_dataset_checks_itself(self):
        """Images and labels that cannot be trained on are refused, with what they are and what they must be."""
        good = Split(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
        for images_, labels, said in (
            (torch.zeros(2, 1, 4, 5), good.labels, r"must be at least one, .* got \(2, 1, 4, 5\)"),
            (torch.zeros(2, 4, 4), good.labels, "must be at least one"),
            (torch.zeros(0, 1, 4, 4), good.labels[:0], "must be at least one"),
            (good.images.byte(), good.labels, "must be a float32 tensor .* got a tensor of torch.uint8$"),
            (good.images.numpy(), good.labels, "must be a float32 tensor .* got ndarray$"),
            (
                good.images.clone().requires_grad_(),
                good.labels,
                "got a tensor of torch.float32 with one$",
            ),
            (good.images / 0, good.labels, "hold numbers that are not finite"),
            (good.images, good.labels.float(), r"2 int64 numbers in \[0, 1\], got torch.float32"),
            (good.images, good.labels[:1], r"2 int64 numbers in \[0, 1\], got torch.int64 \(1,\)"),
            (good.images, good.labels + 2, r"in \[0, 1\], got torch.int64 \(2,\) in \[2, 2\]"),
            (good.images, good.labels - 1, r"in \[-1, -1\]"),
            (good.images, [0, 1], "got list"),
        ):
            with pytest.raises(ConfigError, match=f"^d: test (images|labels) .*{said}"):
                Dataset("d", ("a", "b"), good, good, Split(images_, labels))
        with pytest.raises(ConfigError, match="at least two classes"):
            Dataset("d", ("a",), good, good, good)


class TestNumpy:
    """.npz files."""

    @pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 2), (8, 9, 3), (1, 8, 9), (3, 8, 9)])
    def test_layouts_are_told_apart(self, tmp_path, shape):
        """(N, H, W), (N, H, W, C) and (N, C, H, W) all become (N, C, 8, 9) with the right values."""
        x = images(20, *shape)
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=np.arange(20) % 2)))
        channels = next((c for c in (2, 3) if c in shape), 1)
        assert data.train.images.shape[1:] == (channels, 8, 9)
        planar = x if shape[0] in (1, 3) else x[:, None] if len(shape) == 2 else x.transpose(0, 3, 1, 2)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
        back = {tuple((image * std + mean).round().byte().flatten().tolist()) for image in data.train.images}
        assert back <= {tuple(image.flatten().tolist()) for image in planar}

    @pytest.mark.parametrize(
        ("shape", "read"),
        [((16, 16, 13), (13, 16, 16)), ((4, 4, 1), (1, 4, 4)), ((2, 2, 3), (3, 2, 2)), ((13, 16, 16), (13, 16, 16))],
    )
    def test_a_square_tells_where_the_channels_are(self, tmp_path, shape, read):
        """Where the number of channels does not tell the layout, images are taken for squares."""
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=images(20, *shape), y=np.arange(20) % 2)))
        assert data.train.images.shape[1:] == read

    def test_splits_of_several_scales_are_refused(self, tmp_path):
        """A test split in [0, 1] beside training images in 0 to 255 is refused; integers of two widths are one kind."""
        x, y = images(20, 5, 5), np.arange(20) % 2
        for test in (x[:4] / 255, x[:4] > 99):
            message = refused(npz(tmp_path / "a.npz", x=x, y=y, x_test=test, y_test=y[:4]))
            assert f"x_test is {test.dtype}, x is uint8; give all images in one type and scale" in message
        wide = npz(tmp_path / "b.npz", x=x, y=y, x_test=x[:4].astype(np.int32), y_test=y[:4])
        counts = load_data(DataConfig(name=wide)).duplicates
        assert counts["train/test"] + counts["validation/test"] == 4

    def test_names_and_gaps_in_labels_become_numbers(self, tmp_path):
        """Labels may be text or integers with gaps; classes are named after them, in order."""
        names = load_data(DataConfig(name=npz(tmp_path / "a.npz", images=images(9, 5, 5), labels=["b", "a", "c"] * 3)))
        assert names.classes == ("a", "b", "c")
        raw = load_data(DataConfig(name=npz(tmp_path / "c.npz", x=images(9, 5, 5), y=np.array([b"b", b"a", b"c"] * 3))))
        assert raw.classes == ("a", "b", "c")
        gaps = load_data(DataConfig(name=npz(tmp_path / "b.npz", x=images(9, 5, 5), y=[[30], [10], [20]] * 3)))
        assert gaps.classes == ("10", "20", "30")
        assert set(gaps.train.labels.tolist()) == {0, 1, 2}

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"x": images(6, 5, 5)}, "must have x and y"),
            ({"x": images(6, 5, 5), "y": np.arange(5)}, "x has 6 images, y 5 labels"),
            ({"x": images(6, 5), "y": np.arange(6)}, "must be (N, H, W)"),
            ({"x": images(6, 5, 5), "y": np.zeros(6, int)}, "at least two classes"),
            ({"x": images(6, 5, 5), "y": np.linspace(0, 1, 6)}, "integers or names"),
            ({"x": np.full((6, 5, 5), np.nan), "y": np.arange(6) % 2}, "not finite"),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2, "z": [1]}, "unknown array 'z'"),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2, "x_test": images(2, 5, 5)}, "must come together"),
            (
                {"x": images(6, 5, 5), "y": np.arange(6) % 2, "x_test": images(2, 5, 6), "y_test": [0, 1]},
                "test images are 1x5x6, training images 1x5x5; all must have one size",
            ),
            (
                {"x": images(6, 5, 5), "y": np.arange(6) % 2, "x_test": images(2, 5, 5), "y_test": [0, 7]},
                "class '7' is in y_test but not in y",
            ),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2, "classes": ["a", "b", "c"]}, "class 'c' has no training"),
            ({"x": images(4, 5, 5), "y": [0, 0, 0, 1]}, "class '1' has 1 images"),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2, "classes": "ab"}, "classes must be a list of names"),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2, "classes": ["a", "a"]}, "got 'a' twice"),
            ({"x": images(6, 5, 5), "y": np.arange(6) % 2 * 1.0}, ".astype(int) makes whole numbers of them"),
            ({"x": np.full((6, 5, 5), 1e300), "y": np.arange(6) % 2}, "not finite"),
        ],
    )
    def test_faults_are_told_in_one_line_with_the_file(self, tmp_path, arrays, said):
        """Whatever does not fit together in a file is one line with its name and what is wrong."""
        message = refused(npz(tmp_path / "bad.npz", **arrays))
        assert said in message
        assert str(tmp_path / "bad.npz") in message

    def test_missing_truncated_and_foreign_files_are_told(self, tmp_path):
        """No file, half a file, a text and a lone array are each named."""
        assert "no such file" in refused(f"numpy:{tmp_path / 'none.npz'}")
        npz(tmp_path / "a.npz", x=images(50, 9, 9), y=np.arange(50) % 2)
        content = (tmp_path / "a.npz").read_bytes()
        for cut in (0, 10, len(content) // 2, len(content) - 30):
            (tmp_path / "half.npz").write_bytes(content[:cut])
            assert "half.npz" in refused(f"numpy:{tmp_path / 'half.npz'}")
        (tmp_path / "text.npz").write_text("hello")
        assert "text.npz" in refused(f"numpy:{tmp_path / 'text.npz'}")
        np.save(tmp_path / "lone.npy", images(4, 4))
        assert "expected a .npz file" in refused(f"numpy:{tmp_path / 'lone.npy'}")

    def test_flipped_bytes_are_told(self, tmp_path):
        """Damage inside a compressed array is found by its checksum, and the file named."""
        np.savez_compressed(tmp_path / "a.npz", x=images(50, 9, 9), y=np.arange(50) % 2)
        content = bytearray((tmp_path / "a.npz").read_bytes())
        content[1500:1510] = bytes(10)
        (tmp_path / "a.npz").write_bytes(content)
        assert "a.npz" in refused(f"numpy:{tmp_path / 'a.npz'}")

    @pytest.mark.parametrize("header", [b"{'descr': '|u1', 'fortran_order': (", b"{'descr' '|u1'"])
    def test_a_header_that_is_no_header_is_told(self, tmp_path, header):
        """A whole archive around an array whose description cannot be parsed: the file is named."""
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            text = header.ljust(117) + b"\n"
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        assert "a.npz" in refused(f"numpy:{tmp_path / 'a.npz'}")

    def test_objects_in_a_file_are_refused_and_never_run(self, tmp_path):
        """Arrays of several sizes are Python objects: refused; a pickle that would run a command does not."""
        ragged = np.empty(4, dtype=object)
        ragged[:] = [images(5, 5), images(6, 6), images(5, 5), images(5, 5)]
        name = npz(tmp_path / "ragged.npz", x=ragged, y=np.arange(4) % 2)
        assert "images of several sizes?" in refused(name)
        words = np.array(["a", "b", "a", "b"], dtype=object)
        assert "names? .astype(str) makes them text" in refused(npz(tmp_path / "o.npz", x=images(4, 5, 5), y=words))
        evil = np.empty(1, dtype=object)
        evil[0] = _Evil(tmp_path / "ran")
        refused(npz(tmp_path / "evil.npz", x=evil, y=np.arange(1)))
        assert not (tmp_path / "ran").exists()


class _Evil:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
