"""Splits, resizing and normalisation, and what a Dataset checks."""

import gc
import sys
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import RNG, images, npz, refused

from dropopt.config import ConfigError, DataConfig
from dropopt.training import Dataset, Split, load_data, load_once
from dropopt.training.data import memory
from dropopt.training.data.memory import allocate
from dropopt.training.data.pixels import PixelFormat
from dropopt.training.data.stratify import stratified


class TestSplits:
    """Which split an image belongs to."""

    def test_splits_are_disjoint_complete_and_stratified(self):
        """Every digit is in exactly one split, and each class has its share of every split within 1.5 images."""
        data = load_data(DataConfig(name="digits"))
        sizes = {name: len(split) for name, split in data.splits().items()}
        assert sizes == {"train": 1150, "validation": 288, "test": 359}
        labels = torch.cat([split.labels for split in data.splits().values()])
        total = torch.bincount(labels)
        assert total.sum() == 1797
        for split in data.splits().values():
            share = total * len(split) / 1797
            assert (torch.bincount(split.labels, minlength=10) - share).abs().max() <= 1.5
        assert data.pixels == PixelFormat(white=16.0, whole=True, files=False)
        assert not any(data.duplicates.values())  # digits has no duplicates, so no image is in two splits

    def test_subset_and_validation_seed(self):
        """Training and validation images together are ``subset``, and the test images those of the whole data set.

        A seed of the validation split divides the images of the subset anew. null is split_seed.
        """

        def load(**settings):
            return load_data(DataConfig(name="digits", split_seed=3, **settings))

        def pool(data):
            rows = torch.cat([data.train.tensor, data.validation.tensor]) * data.std[0] + data.mean[0]
            return sorted(map(tuple, rows.flatten(1).round().int().tolist()))

        whole, first, same = load(), load(subset=200), load(subset=200, validation_seed=3)
        other, foreign = load(subset=200, validation_seed=4), load_data(DataConfig(name="digits", subset=200))
        assert same.fingerprint == first.fingerprint
        assert not {*first.fingerprint.values()} & {*foreign.fingerprint.values()}
        assert other.fingerprint["test"] == first.fingerprint["test"] == whole.fingerprint["test"]
        assert other.fingerprint["validation"] != first.fingerprint["validation"]
        assert pool(other) == pool(first)
        assert len(pool(first)) == 200
        assert len(other.validation) == len(first.validation)
        assert torch.bincount(first.train.labels).min() >= 15
        assert first.drawn == ("validation", "test")

    @pytest.mark.parametrize(
        ("test", "validation", "sizes"),
        [(0.2, 0.25, (36, 12, 12)), (0.001, 0.999, (3, 54, 3)), (0.5, 0.1, (27, 3, 30))],
    )
    def test_fractions(self, tmp_path, test, validation, sizes):
        """test_fraction is of all images, validation_fraction of the rest; each split has an image of every class."""
        name = npz(tmp_path / "a.npz", x=images(60, 5, 5), y=np.arange(60) % 3)
        data = load_data(DataConfig(name=name, test_fraction=test, validation_fraction=validation))
        assert tuple(len(split) for split in data.splits().values()) == sizes
        assert all(set(split.labels.tolist()) == {0, 1, 2} for split in data.splits().values())

    def test_an_impossible_subset_is_refused(self):
        for subset in (19, 1439):
            message = f"digits: subset: must be in [20, 1438] images for 10 classes, got {subset}"
            assert refused("digits", subset=subset) == message
        assert len(load_data(DataConfig(name="digits", subset=20)).train) == 10

    @given(
        sizes=st.lists(st.integers(2, 60), min_size=2, max_size=12),
        share=st.floats(0, 1),
        seed=st.integers(0, 9),
    )
    def test_stratified_is_exact_within_its_limits(self, sizes, share, seed):
        """Any allowed count is met exactly; no class is left out or used up, and each is within one of its quota."""
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
            # The largest remainders are rounded up.
            up, down = quota.frac()[found > quota], quota.frac()[found < quota]
            assert not len(up) or not len(down) or up.min() >= down.max() - 1e-4

    def test_each_purpose_and_each_seed_has_a_draw_of_its_own(self):
        """So the images of one split are independent of those of another, and draws repeat."""
        labels = torch.arange(200) % 2

        def drawn(purpose, seed):
            return tuple(stratified(labels, 40, least=1, spare=1, seed=seed, purpose=purpose).tolist())

        draws = [drawn(purpose, seed) for purpose in ("test", "subset", "validation") for seed in (0, 1)]
        assert len(set(draws)) == 6
        assert drawn("test", 0) == draws[0]


class TestNumbers:
    """Normalisation, resizing, fingerprints and duplicates."""

    @pytest.mark.parametrize("scale", [1e-30, 1e-9, 1, 1e9, 1e30])
    def test_training_statistics_normalise_every_split(self, tmp_path, scale):
        """Training images have mean 0 and deviation 1 per channel; the others are on the same scale, whatever it is."""
        x = (scale * RNG.normal((5, -3, 1e3), (2, 0.1, 10), (300, 5, 5, 3))).astype(np.float32)
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=np.arange(300) % 3)))
        train = data.train.images
        assert train.dtype == torch.float32
        assert train.is_contiguous(memory_format=torch.channels_last)
        assert (data.channels, data.image_size) == (3, (5, 5))
        assert train.mean((0, 2, 3)).abs().max() < 1e-4
        assert (train.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
        assert data.test.images.mean((0, 2, 3)).abs().max() < 0.2
        assert np.allclose(np.array(data.mean) / scale, (5, -3, 1e3), atol=1)

    @pytest.mark.parametrize("value", [0, 7, 12.3, 1000.1, 255, -1e-20])
    def test_a_constant_channel_is_shifted_to_0(self, tmp_path, value):
        """A channel that is constant in training becomes 0 however its mean is rounded, and is not scaled elsewhere."""
        x, test = RNG.random((203, 2, 50, 50), dtype=np.float32), np.ones((2, 2, 50, 50), np.float32)
        x[:, 1], test[:, 1] = value, np.float32(value) + 1
        y = np.arange(203) % 2
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=y, x_test=test, y_test=[0, 1])))
        assert (data.train.images[:, 1] == 0).all()
        assert (data.test.images[:, 1] - 1).abs().max() < 1e-4

    def test_an_overflowing_range_is_refused(self, tmp_path):
        x = np.full((40, 5, 5), 3e38, np.float32)
        x[:, 0] = -3e38
        name = npz(tmp_path / "a.npz", x=x, y=np.arange(40) % 2)
        assert refused(name) == f"{name}: images must hold values that float32 can normalise, got up to 3e+38"

    def test_chunks_hold_a_number_of_values(self, monkeypatch):
        monkeypatch.setattr(memory, "CHUNK", 100)
        assert [memory.images_per_chunk(torch.zeros(9, 2, 5, side)) for side in (3, 5, 10, 20)] == [3, 2, 1, 1]

    def test_images_larger_than_memory_are_refused(self):
        for kind, need in ((torch.uint8, "4.69e+07"), (torch.float32, "1.88e+08")):
            with pytest.raises(ConfigError) as caught:
                allocate("digits", (10**9, 3, 4096, 4096), kind)
            assert str(caught.value) == (
                f"digits: 1000000000 images of 3x4096x4096 need {need} GiB, more than is available; use a smaller "
                "image_size"
            )

    def test_the_fingerprint_changes_with_one_pixel(self, tmp_path):
        """Changing one pixel changes the hash of its split and of no other."""
        x, y = images(40, 5, 5), np.arange(40) % 2
        first = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=y))).fingerprint
        x[7, 2, 2] ^= 1
        second = load_data(DataConfig(name=npz(tmp_path / "b.npz", x=x, y=y))).fingerprint
        assert sum(first[name] != second[name] for name in first) == 1

    def test_duplicates_across_splits_are_counted_and_reported(self, tmp_path):
        x, test = images(30, 5, 5), images(10, 5, 5)
        test[:3] = x[4]
        arrays = {"x": x, "x_val": images(4, 5, 5), "x_test": test}
        labels = {"y": np.arange(30) % 2, "y_val": np.arange(4) % 2, "y_test": np.arange(10) % 2}
        data = load_data(DataConfig(name=npz(tmp_path / "a.npz", **arrays, **labels)))
        assert data.duplicates == {"train/validation": 0, "train/test": 3, "validation/test": 0}
        (notice,) = data.notices
        assert notice.endswith("3 of 10 test images are exact copies of train images")

    def test_what_a_function_may_return(self, own_module):
        """A data set is taken as it is, and subset and image_size are not for it; other values are refused."""
        own_module(
            "returns",
            "import torch\nfrom dropopt.training import Dataset, Split\n"
            "def whole():\n"
            "    split = Split(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))\n"
            "    return Dataset('mine', ('a', 'b'), split, split, split)\n"
            "def number():\n    return 5\n"
            "def pairs():\n    return (torch.zeros(4, 8, 8), [0, 1] * 2), (torch.zeros(2, 8, 8), [0, 1])\n"
            "def zipped():\n    return tuple(zip(*[(torch.full((8, 8), i), i % 2) for i in range(20)]))\n",
        )
        assert [len(split) for split in load_data(DataConfig(name="returns:zipped")).splits().values()] == [13, 3, 4]
        data = load_data(DataConfig(name="returns:whole"))
        assert (data.name, data.image_size, data.fingerprint.keys()) == ("mine", (8, 8), data.splits().keys())
        assert data.duplicates == {"train/validation": 4, "train/test": 4, "validation/test": 4}
        for settings in ({"subset": 3}, {"image_size": 8}):
            said = "returns:whole returns a Dataset: subset and image_size cannot apply to it"
            assert refused("returns:whole", **settings) == said
        assert refused("returns:number") == (
            "returns:number must return (images, labels), a mapping of arrays, or data sets or loaders of PyTorch, "
            "got int; for splits of your own, return a mapping with x, y, x_validation, y_validation, x_test and y_test"
        )
        assert refused("returns:pairs").endswith("got tuple of 2; " + refused("returns:number").split("; ")[1])

    def test_load_once_keeps_the_last(self, tmp_path):
        """Loading the same data twice in a process returns the same object.

        A seed of the validation split makes no difference to data with a validation split of their own.
        """
        digits = load_once(DataConfig(name="digits"))
        assert load_once(DataConfig(name="digits")) is digits
        other = load_once(DataConfig(name="digits", validation_seed=1))
        assert other.fingerprint["validation"] != digits.fingerprint["validation"]
        assert load_once(DataConfig(name="digits")) is not digits
        name = npz(
            tmp_path / "own.npz",
            x=images(12, 5, 5),
            y=np.arange(12) % 3,
            x_validation=images(6, 5, 5),
            y_validation=np.arange(6) % 3,
        )
        own = load_once(DataConfig(name=name))
        assert own.drawn == ("test",)
        assert load_once(DataConfig(name=name, validation_seed=1)) is own
        assert load_once(DataConfig(name=name, validation_seed=1, split_seed=1)) is not own

    def test_load_once_forgets_a_data_set_before_it_reads_another(self, monkeypatch):
        """Memory may not hold both."""
        last = weakref.ref(load_once(DataConfig(name="digits")))
        alive = []

        def watched(config):
            gc.collect()
            alive.append(last() is not None)
            return load_data(config)

        monkeypatch.setattr(sys.modules[load_data.__module__], "load_data", watched)
        load_once(DataConfig(name="digits", validation_seed=1))
        assert alive == [False]

    def test_outputs_of_masks_are_for_the_classes_of_all_splits(self):
        """A rare class may be absent from the training samples of one split, and the network is the same for all."""
        train, validation, test = (
            Split(torch.zeros(2, 1, 2, 2), torch.full((2, 2, 2), largest)) for largest in (1, 3, 2)
        )
        assert Dataset("mine", (), train, validation, test).outputs == 4

    def test_a_dataset_checks_itself(self):
        """Images and labels of a wrong type, shape or range are refused; the message says what is expected."""
        good = Split(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
        for images_, labels, said in (
            (torch.zeros(2, 1, 4, 5), good.labels, r"must be \(N, C, \.\.\.\), not empty .* got \(2, 1, 4, 5\)"),
            (torch.zeros(2), good.labels, "not empty"),
            (torch.zeros(0, 1, 4, 4), good.labels[:0], "not empty"),
            (good.images.byte(), good.labels, "must be a float32 tensor .* got a tensor of torch.uint8$"),
            (good.images.numpy(), good.labels, "must be a float32 tensor .* got ndarray$"),
            (
                good.images.clone().requires_grad_(),
                good.labels,
                "got a tensor of torch.float32 with a gradient$",
            ),
            (good.images / 0, good.labels, "hold values that are not finite"),
            (good.images, good.labels.float(), r"2 int64 numbers in \[0, 1\], got torch.float32"),
            (good.images, good.labels[:1], r"2 int64 numbers in \[0, 1\], got torch.int64 \(1,\)"),
            (good.images, good.labels + 2, r"in \[0, 1\], got torch.int64 \(2,\) in \[2, 2\]"),
            (good.images, good.labels - 1, r"in \[-1, -1\]"),
            (good.images, [0, 1], "got list"),
        ):
            with pytest.raises(ConfigError, match=f"^d: test (images|labels) .*{said}"):
                Dataset("d", ("a", "b"), good, good, Split(images_, labels))
        with pytest.raises(ConfigError, match=r"^d: at least two classes are needed, got \['a'\]$"):
            Dataset("d", ("a",), good, good, good)

    def test_targets_and_several_inputs_are_checked(self):
        """Targets that are no classes, and inputs by place or by name, as in the training split."""
        images_, vectors, ids = torch.zeros(2, 1, 4, 4), torch.zeros(2, 3), torch.zeros(2, 3).long()
        good = Split((images_, ids), torch.zeros(2, 4))
        data = Dataset("d", (), good, good, good)
        assert (data.channels, data.image_size) == ((1, 3), ((4, 4), ()))
        for inputs, targets, said in (
            ((images_, vectors), good.labels, None),
            ((images_, ids[:, :2]), good.labels, None),
            ({"1": images_, "2": ids}, good.labels, "test samples have the inputs 1, 2, training samples 1, 2"),
            ((images_,), good.labels, "test samples have the inputs 1, training samples 1, 2"),
            ((images_, ids[:1]), good.labels, "the inputs of test have several lengths"),
            ((images_ / 0, ids), good.labels, "test images hold values that are not finite"),
            ((images_, ids), good.labels[:1], "test targets must be a tensor (2, ...), got (1, 4)"),
            ((images_, ids), [0, 1], "test targets must be a tensor (2, ...), got list"),
            ((images_, ids), good.labels * 1j, "test targets must be a tensor (2, ...), got (2, 4)"),
            ((images_, ids), torch.zeros(()), "test targets must be a tensor (2, ...), got ()"),
            ((images_, ids), good.labels / 0, "test targets hold values that are not finite"),
        ):
            if said is None:
                Dataset("d", (), good, good, Split(inputs, targets))
                continue
            with pytest.raises(ConfigError) as caught:
                Dataset("d", (), good, good, Split(inputs, targets))
            assert str(caught.value) == f"d: {said}"
