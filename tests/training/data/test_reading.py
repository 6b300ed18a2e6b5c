"""Data sets and loaders of PyTorch: which are read by number, what is drawn for each batch, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import other_tasks
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from dropopt.config import ConfigError, DataConfig
from dropopt.inputs import parts
from dropopt.randomness import everywhere, generator
from dropopt.seeds import derived_seed
from dropopt.training import Split, load_data
from dropopt.training.data import read_torch, stream
from dropopt.training.data.collate import joined, stacked, tensor
from dropopt.training.data.from_source import dataset_from
from dropopt.training.data.read_torch import class_names, dataset_as_is, drawn_splits, torch_splits, why_streamed
from dropopt.training.data.reading import Indexed, OwnBatches, is_random, reader_of, repeats
from dropopt.training.data.stream import Stream, bytes_of, sample_of

DATA = TensorDataset(torch.arange(30.0).view(10, 3), torch.arange(10))


class Lines(IterableDataset):
    """Samples without numbers."""

    def __iter__(self):
        return iter([(torch.zeros(3), 0)] * 4)


class Counted(Lines):
    """Samples without numbers, but with a number of them."""

    def __len__(self):
        return 4


class Unknown(torch.utils.data.Dataset):
    """Numbered samples without end."""

    def __getitem__(self, index):
        return torch.zeros(3), index


class Drawing(torch.utils.data.Dataset):
    """Each sample holds what torch, NumPy and Python draw, and its number."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([torch.rand(1).item(), np.random.rand(), random.random(), index]), index


class Made(torch.utils.data.Dataset):
    """Each of 70 samples holds what a function makes of its number."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 70

    def __getitem__(self, index):
        return torch.tensor([self.make(index), 0.0]), 0


def own_collate(samples):
    return torch.stack([sample for sample, _ in samples]) + 1, torch.tensor([target for _, target in samples])


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (DATA, Indexed),
        (DataLoader(DATA, 4), Indexed),
        (DataLoader(DATA, 4, shuffle=True), Indexed),
        (DataLoader(DATA, 4, collate_fn=own_collate), Indexed),
        (DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True)), OwnBatches),
        (DataLoader(DATA, 4, sampler=RandomSampler(DATA, num_samples=9)), OwnBatches),
        (DataLoader(DATA, 4, sampler=torch.arange(10).tolist()), OwnBatches),
        (DataLoader(DATA, batch_sampler=[[0, 1], [5, 2]]), OwnBatches),
        (DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA, replacement=True), 5, False)), OwnBatches),
        (DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 5, False)), Indexed),
        (DataLoader(Counted(), 2), OwnBatches),
        (DataLoader(Unknown(), batch_sampler=[[0, 1], [5, 2]]), OwnBatches),
    ],
)
def test_what_is_read_by_number(given, kind):
    """Loaders whose sampler takes each sample once; the batches of others are those of the loader."""
    reader = reader_of("mine", given)
    assert type(reader) is kind
    assert reader.name == "mine"
    found = list(reader.in_order(4))
    if kind is Indexed:
        assert len(reader) == 10
        assert [len(batch) for batch in found] == [4, 4, 2]
        shift = getattr(given, "collate_fn", None) is own_collate
        assert torch.equal(torch.cat([batch.images for batch in found]), DATA.tensors[0] + shift)
        order = torch.randperm(10, generator=generator(3, "order", 2))
        shuffled = list(reader.shuffled([slice(0, 7), slice(7, 10)], 3, 2))
        assert [batch.labels.tolist() for batch in shuffled] == [order[:7].tolist(), order[7:].tolist()]
        assert torch.equal(shuffled[0].images, DATA.tensors[0][order[:7]] + shift)
        assert next(reader.take(torch.tensor([3, 1])).in_order(2)).labels.tolist() == [3, 1]
        mask = torch.arange(10) > 7
        assert next(reader.take(mask).take(torch.tensor([1])).in_order(2)).labels.tolist() == [9]
    else:
        assert [len(batch) for batch in found] == [len(labels) for _, labels in given]
        assert reader.steps == len(found)
        assert len(reader) == (10 if given.dataset is DATA else 4 if isinstance(given.dataset, Counted) else 2)


def test_the_workers_of_a_loader_are_kept():
    init = lambda number: None  # noqa: E731
    plain = reader_of("a", DataLoader(DATA, 4, worker_init_fn=init))
    assert plain.workers == {"num_workers": 0, "worker_init_fn": init}
    loader = DataLoader(DATA, 4, num_workers=2, prefetch_factor=3, multiprocessing_context="spawn", worker_init_fn=init)
    workers = reader_of("a", loader).workers
    assert {name: workers[name] for name in ("num_workers", "worker_init_fn", "prefetch_factor")} == {
        "num_workers": 2,
        "worker_init_fn": init,
        "prefetch_factor": 3,
    }
    assert workers["multiprocessing_context"] is loader.multiprocessing_context
    assert reader_of("a", DATA).workers == {}


def test_what_is_drawn_for_a_batch_is_a_function_of_seed_purpose_and_number():
    """As if torch, NumPy and Python were seeded for each batch; the states outside stay as they were."""
    reader, groups = reader_of("a", Drawing()), ([4, 2], [0], [7, 7], [1])
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    found = [batch.images for batch in reader.batches(list(map(torch.tensor, groups)), 7, "reading", 5)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    for number, members in enumerate(groups):
        with everywhere(7, "reading", 5, number):
            assert torch.equal(found[number], torch.stack([Drawing()[index][0] for index in members]))


def test_the_generator_of_a_sampler_is_seeded():
    """Its order is that of the seed, however far it was drawn before; the loader itself is not changed."""
    own = torch.Generator()
    loader = DataLoader(DATA, 5, sampler=RandomSampler(DATA, replacement=True, generator=own))
    reader = reader_of("a", loader)
    for seed in (1, 2):
        torch.rand(3, generator=own)
        found = torch.cat([batch.labels for batch in reader.in_order(0, seed, "reading", 4)])
        expected = torch.Generator().manual_seed(derived_seed(seed, "reading", 4, "loader"))
        again = DataLoader(DATA, 10, sampler=RandomSampler(DATA, replacement=True, generator=expected))
        assert torch.equal(found, next(iter(again))[1])
    for made in (
        DataLoader(DATA, 5, sampler=RandomSampler(DATA, replacement=True), generator=own),
        DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA, replacement=True, generator=own), 5, False)),
    ):
        draws = [[batch.labels.tolist() for batch in reader_of("a", made).in_order(0, n, "x")] for n in (1, 1, 2)]
        assert draws[0] == draws[1] != draws[2]
    assert loader._iterator is None


def test_random_samples_are_noticed():
    """By reading some of them three times, spread over the data set; a fixed order of a loader is not random."""
    assert is_random(reader_of("a", Drawing()))
    assert is_random(reader_of("a", Made(lambda index: torch.rand(1).item() if index == 62 else 0.5)))
    assert is_random(reader_of("a", Made(lambda _: float(torch.rand(1) < 0.5))))
    assert not is_random(reader_of("a", Made(lambda _: 0.5)))
    assert not is_random(reader_of("a", DataLoader(DATA, 4, shuffle=True)))
    assert is_random(reader_of("a", DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True))))
    assert not is_random(reader_of("a", DataLoader(DATA, batch_sampler=[[0, 1], [5, 2]])))
    assert not is_random(reader_of("a", DataLoader(Counted(), 2)))
    assert is_random(reader_of("a", DataLoader(DATA, batch_sampler=[])))


def test_draws_that_cannot_be_repeated_are_noticed():
    own = np.random.default_rng(0)
    assert repeats(reader_of("a", Drawing()))
    for first in (0, 8):
        made = Made(lambda index, first=first: float(own.random()) if index >= first else 0.0)
        assert not repeats(reader_of("a", made)), first


def test_pairs_are_stacked():
    """Types, shapes and several inputs; bytes and whole numbers keep what they are where that matters."""
    for sample, kind in (
        (np.zeros((2, 3), np.uint8), torch.uint8),
        (np.zeros((2, 3)), torch.float32),
        (torch.zeros(2, 3, dtype=torch.int32), torch.float32),
        (torch.zeros(2, 3, dtype=torch.bool), torch.float32),
        (3, torch.float32),
        ([1, 2.5], torch.float32),
    ):
        found = stacked("a", [(sample, 1), [sample, 0]])
        assert (found.images.dtype, found.labels.dtype, found.labels.tolist()) == (kind, torch.int64, [1, 0])
        assert found.images.shape == (2, *np.shape(sample))
    for target, kind in (
        (np.int8(1), torch.int64),
        (True, torch.int64),
        (0.5, torch.float32),
        (np.float64(1), torch.float32),
    ):
        assert stacked("a", [(torch.zeros(2), target)]).labels.dtype == kind
    image, ids = torch.zeros(1, 2, 2, dtype=torch.uint8), torch.tensor([3, 4], dtype=torch.int32)
    by_place = stacked("a", [((image, ids), 0), ((image, ids), 1)])
    assert [(part.dtype, tuple(part.shape)) for part in by_place.images] == [
        (torch.float32, (2, 1, 2, 2)),
        (torch.int64, (2, 2)),
    ]
    by_name = stacked("a", [({"x": image, 5: ids}, 0)])
    assert {name: part.dtype for name, part in by_name.images.items()} == {"x": torch.float32, "5": torch.int64}


def test_images_of_pillow_become_tensors():
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert torch.equal(tensor(Image.fromarray(pixels)), torch.from_numpy(pixels.transpose(2, 0, 1)))
    assert torch.equal(tensor(Image.fromarray(pixels[..., 0])), torch.from_numpy(pixels[None, ..., 0]))
    given = torch.ones(2, requires_grad=True)
    assert not tensor(given).requires_grad


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_images_with_a_palette_are_read_in_its_colours(mode):
    """A sample has the colours of the palette, on white where it is transparent; a mask keeps its numbers."""
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 0, 20, 40])
    image.putpixel((1, 0), 1)
    expected = [[[200, 0]], [[100, 20]], [[50, 40]]]
    sample = image.convert(mode)
    for samples in (sample, (sample, sample), {"a": sample}):
        found = stacked("a", [(samples, image)])
        for part in parts(found.images).values():
            assert part[0].tolist() == expected
        assert found.labels.tolist() == [[[[0, 1]]]]
    image.info["transparency"] = 1
    assert stacked("a", [(image, 0)]).images[0].tolist() == [[[200, 255]], [[100, 255]], [[50, 255]]]


SEVERAL = "; for a network with several inputs give ((x1, x2), target) or ({'a': x1, 'b': x2}, target)"

NUMBERS = "a data set must give tensors, arrays, numbers or images"


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([torch.zeros(2)], "a must give pairs (sample, target), gives Tensor"),
        ([(torch.zeros(2),)], "a must give pairs (sample, target), gives tuple of 1"),
        ([[1, 2, 3]], f"a must give pairs (sample, target), gives list of 3{SEVERAL}"),
        (
            [{"x": 1, "y": 2}],
            f"a must give pairs (sample, target), gives dict; return (sample['x'], sample['y']){SEVERAL}",
        ),
        (
            [{"label": 1, "image": 2}],
            f"a must give pairs (sample, target), gives dict; return (sample['image'], sample['label']){SEVERAL}",
        ),
        (
            [{"u": 1, "v": 2}],
            f"a must give pairs (sample, target), gives dict; return (sample['u'], sample['v']){SEVERAL}",
        ),
        ([("text", 0)], f"a: {NUMBERS}, gives str; turn names and words into numbers"),
        ([(torch.zeros(2), "cat")], f"a: {NUMBERS}, gives str; turn names and words into numbers"),
        ([(("a", "b"), 0)], f"a: {NUMBERS}, gives str; turn names and words into numbers"),
        ([(torch.zeros(2), None)], f"a: {NUMBERS}, gives NoneType"),
        (
            [(torch.zeros(2), torch.zeros(2)), (torch.zeros(2), torch.zeros(3))],
            "a has targets of shapes (2,) and (3,) (number 1); give all of them one shape",
        ),
        (
            [(torch.zeros(2, 3), 0), (torch.zeros(2, 3), 0), (torch.zeros(2, 4), 1)],
            "a has samples of 2x3 and 2x4 (number 2); resize them in its transform",
        ),
        (
            [((torch.zeros(2, 3), torch.zeros(5)), 0), ((torch.zeros(2, 3), torch.zeros(6)), 1)],
            "a has samples of 2x3, 5 and 2x3, 6 (number 1); resize them in its transform",
        ),
    ],
)
def test_what_cannot_be_stacked(samples, message):
    with pytest.raises(ConfigError) as caught:
        stacked("a", samples)
    assert str(caught.value) == message


def test_batches_are_joined():
    batches = [(torch.arange(6).view(3, 2), torch.arange(3)), [torch.ones(1, 2), torch.ones(1).long()]]
    found = joined("a", batches)
    assert found.images.tolist() == [[0, 1], [2, 3], [4, 5], [1, 1]]
    assert (found.images.dtype, found.labels.tolist()) == (torch.float32, [0, 1, 2, 1])
    with pytest.raises(ConfigError, match=r"^a must give pairs \(sample, target\), gives Tensor$"):
        joined("a", [torch.zeros(2)])
    with pytest.raises(ConfigError, match=r"^a has no batches$"):
        joined("a", [])
    with pytest.raises(ConfigError, match=r"^a has samples of 2 and 3 \(number 1\); resize them in its transform$"):
        joined("a", [(torch.zeros(2, 2), torch.zeros(2)), (torch.zeros(2, 3), torch.zeros(2))])


def test_which_objects_are_data_sets_of_pytorch():
    """One, a tuple of up to three, or a mapping with the names of splits."""
    loader = DataLoader(DATA)
    assert torch_splits(DATA) == {"train": DATA}
    assert torch_splits(loader) == {"train": loader}
    assert torch_splits((DATA, loader)) == {"train": DATA, "validation": loader}
    assert torch_splits([DATA, loader, DATA]) == {"train": DATA, "validation": loader, "test": DATA}
    assert torch_splits({"train": DATA, "val": loader}) == {"train": DATA, "validation": loader}
    for other in ((DATA,), (DATA,) * 4, (DATA, torch.zeros(2)), {}, {"train": torch.zeros(2)}, torch.zeros(2), None):
        assert torch_splits(other) is None
    with pytest.raises(ConfigError, match=r"^unknown split 'dev'; allowed: train, validation, test$"):
        torch_splits({"train": DATA, "dev": DATA})
    with pytest.raises(ConfigError, match=r"^the split 'train' is missing; there are: test, validation$"):
        torch_splits({"test": DATA, "val": DATA})


def test_why_samples_are_read_anew(monkeypatch):
    """The setting, the memory, random transforms, or a sampler that cannot be replaced, in this order."""
    sampled = DataLoader(DATA, batch_sampler=[[0, 1], [5, 2]])
    lines = DataLoader(Counted(), 2)

    def why(given, **settings):
        return why_streamed("a", {"train": given}, DataConfig(**settings))

    assert why(Drawing(), in_memory=True) is None
    assert why(DATA, in_memory=False) == "data.in_memory is false"
    assert why(DATA) is None
    assert why(lines) is None  # it has no numbers, so that its order is that of its samples
    assert why(Drawing()) == "they are drawn at random"
    assert why(sampled) == "the sampler of their loader chooses them"
    assert why(Subset(DATA, [])) is None
    needed = 10 * 3 * 4
    monkeypatch.setattr(read_torch, "_memory", lambda: 8.0 * needed)
    assert why(DATA) is None
    monkeypatch.setattr(read_torch, "_memory", lambda: 8.0 * needed - 1)
    assert why(DATA) == f"they would take {needed / 2**30:.3g} GiB of memory"
    monkeypatch.undo()
    assert 2**28 < read_torch._memory() < 2**50
    monkeypatch.setattr(read_torch.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4, "SC_PHYS_PAGES": 8}[name])
    assert read_torch._memory() == 32
    monkeypatch.delattr(read_torch.os, "sysconf")
    assert read_torch._memory() == float("inf")


@pytest.mark.parametrize(
    "given", [{"train"}, {"train", "test"}, {"train", "validation"}, {"train", "validation", "test"}]
)
@pytest.mark.parametrize(("subset", "again"), [(None, None), (None, 5), (12, None), (12, 3), (12, 5)])
def test_missing_splits_are_drawn(given, subset, again):
    """Written out: a random order, from which the test samples, the subset and the validation samples are taken.

    With a seed of their own, the validation samples are drawn from what the test samples and the subset leave.
    """
    config = DataConfig(test_fraction=0.3, validation_fraction=0.26, subset=subset, split_seed=3, validation_seed=again)
    order = torch.randperm(30, generator=generator(3, "split", "samples")).tolist()
    expected = {}
    if "test" not in given:
        expected["test"], order = sorted(order[:9]), order[9:]
    if subset is not None:
        order = order[:subset]
    if "validation" not in given:
        if again is not None:
            stream = generator(again, "split", "validation")
            order = [order[position] for position in torch.randperm(len(order), generator=stream)]
        count = round(0.26 * len(order))
        expected["validation"], order = sorted(order[:count]), order[count:]
    found = drawn_splits("a", 30, given, config)
    assert {name: index.tolist() for name, index in found.items()} == expected | {"train": sorted(order)}


def test_a_subset_of_more_samples_than_there_are_is_refused():
    config = DataConfig(test_fraction=0.3, subset=21)
    assert len(drawn_splits("a", 30, {"train", "validation"}, config)["train"]) == 21
    with pytest.raises(ConfigError, match=r"^a: subset: must be at most 21 samples, got 22$"):
        drawn_splits("a", 30, {"train", "validation"}, DataConfig(test_fraction=0.3, subset=22))


def test_too_few_samples_to_split():
    """One for each split is needed."""
    assert {name: len(index) for name, index in drawn_splits("a", 3, {"train"}, DataConfig()).items()} == dict.fromkeys(
        ("test", "validation", "train"), 1
    )
    for count in (1, 2):
        with pytest.raises(ConfigError, match=f"^a: {count} samples are too few to split$"):
            drawn_splits("a", count, {"train"}, DataConfig())
    pool = Split(torch.arange(40).view(20, 2), torch.arange(20) % 3)
    data = dataset_as_is("a", {"train": pool, "test": pool.head(4)}, DataConfig(validation_fraction=0.25))
    assert (data.name, len(data.train), len(data.validation), data.classes) == ("a", 15, 5, ("0", "1", "2"))
    assert torch.equal(data.test.images, pool.images[:4].float())
    with pytest.raises(
        ConfigError, match=r"^a: image_size is for images \(C, H, W\) with class numbers; resize in the"
    ):
        dataset_as_is("a", {"train": pool}, DataConfig(image_size=8))


def test_the_names_of_classes():
    """Those of the innermost data set that gives enough of them, as text; else the numbers."""

    class Named(Drawing):
        classes = ("a", 2)

    for given in (Named(), Subset(Named(), [0]), DataLoader(Subset(Named(), [0]))):
        assert class_names(given, 2) == ("a", "2")
        assert class_names(given, 3) == ("0", "1", "2")
    assert class_names(None, 1) == ("0",)
    Named.classes = {"a": 0}
    assert class_names(Named(), 1) == ("0",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Lines(), "a: train: the data set has no length; give a DataLoader with a fixed number of batches"),
        (Counted(), "a: train: samples of an IterableDataset have no numbers; give a DataLoader of it"),
        (Subset(DATA, []), "a: train has no samples"),
        (DataLoader(DATA, batch_sampler=[]), "a: train has no batches"),
    ],
)
def test_data_sets_that_cannot_be_read(given, message):
    with pytest.raises(ConfigError) as caught:
        read_torch.read_torch("a", {"train": given})
    assert str(caught.value) == message
    if not isinstance(given, DataLoader):
        with pytest.raises(ConfigError) as caught:
            sample_of(reader_of("a: train", given))
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("labels", "spoilt", "message"),
    [
        (torch.arange(24) % 2 - 1, 0.0, r"^a: classes must have the numbers 0, 1, \.\.\., got -1$"),
        (torch.arange(24) % 2 + 1, 0.0, "^a: class '0' has no training images; number the classes from 0$"),
        (torch.arange(24) % 2, float("nan"), "^a: train images hold values that are not finite$"),
        (torch.arange(24) // 2, 0.0, r"at least 3 are needed; to predict numbers, .* targets as floats$"),
    ],
)
def test_images_with_wrong_numbers_are_refused(labels, spoilt, message):
    """Class numbers that do not begin at 0, pixels that are not finite, and perhaps the targets of a regression."""
    data = TensorDataset(torch.rand(24, 1, 4, 4) + spoilt, labels)
    with pytest.raises(ConfigError, match=message):
        dataset_from(read_torch.read_torch("a", {"train": data}), DataConfig(name="digits"))


@pytest.mark.parametrize(("shape", "reported"), [((8, 8, 3), True), ((3, 8, 8), False), ((8, 8, 8), False)])
@pytest.mark.parametrize("in_memory", [True, False])
def test_colours_in_the_last_axis_are_reported(own_module, shape, reported, in_memory):
    """Data sets of PyTorch give (C, H, W), so pictures of (H, W, C) are read as many channels, with a notice."""
    own_module(
        "coloured",
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        f"def data(): return TensorDataset(torch.rand(24, *{shape}), torch.arange(24) % 2)\n",
    )
    data = load_data(DataConfig(name="coloured:data", in_memory=in_memory))
    said = "samples of 8x8x3 are read as 8 channels of 8x3 pixels; if the last axis holds the colours, give (C, H, W)"
    assert any(said in notice for notice in data.notices) == reported


def test_a_loader_without_a_length_is_refused():
    """It cannot say how many steps an epoch has."""

    class Endless(BatchSampler):
        def __len__(self):
            raise TypeError

    reader = reader_of("a", DataLoader(DATA, batch_sampler=Endless(SequentialSampler(DATA), 2, False)))
    with pytest.raises(ConfigError, match=r"^a: the loader has no length; give one with a fixed number of batches$"):
        _ = reader.steps


def test_some_samples_are_measured(monkeypatch):
    """All of a small data set, else a sorted draw from all over it; of a loader, its first batches."""
    assert torch.equal(sample_of(reader_of("a", DATA)).images, DATA.tensors[0])
    assert bytes_of(Split(DATA.tensors[0], DATA.tensors[1])) == 12
    assert bytes_of(Split((torch.zeros(2, 3, 4), torch.zeros(2, 5)), torch.zeros(2))) == 4 * (12 + 5)
    sampled = reader_of("a", DataLoader(DATA, batch_sampler=[[0, 1], [5, 2], [3, 4]]))
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    for samples, size, count in ((4, 2**28, 4), (10, 2**28, 10), (2048, 5 * 12, 5), (2048, 1, 2)):
        monkeypatch.setattr(stream, "SAMPLES", samples)
        monkeypatch.setattr(stream, "BYTES", size)
        found = sample_of(reader_of("a", DATA)).labels.tolist()
        assert found == (sorted(expected[:count].tolist()) if count < 10 else list(range(10)))
        first = [0, 1, 5, 2, 3, 4]
        assert sample_of(sampled).labels.tolist() == first[: min(6, count + count % 2)]


def test_a_stream_reads_checks_and_prepares():
    """In order, in an epoch, and once into memory; class numbers are those of the classes."""
    reader = reader_of("a: train", DATA)
    twice = Stream(reader, lambda batch: Split(2 * batch.images, batch.labels), Split(*DATA.tensors), classes=10)
    assert len(twice) == 10
    assert torch.equal(twice.head(3).images, DATA.tensors[0][:3])
    batches = list(twice.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.images for batch in batches]), 2 * DATA.tensors[0])
    kept = twice.in_memory()
    assert torch.equal(kept.images, 2 * DATA.tensors[0])
    assert torch.equal(kept.labels, DATA.tensors[1])
    order = torch.randperm(10, generator=generator(5, "order", 2))
    found = list(twice.epoch([slice(0, 6), slice(6, 10)], 5, 2))
    assert torch.equal(torch.cat([batch.labels for batch in found]), order)
    few = Stream(reader, lambda batch: batch, twice.sample, classes=9)
    message = r"^a: train has class numbers in \[8, 9\], but there are 9 classes; correct its attribute 'classes'$"
    with pytest.raises(ConfigError, match=message):
        list(few.batches(4))
    assert len(list(Stream(reader, lambda batch: batch, twice.sample).batches(4))) == 3
    own = Stream(reader_of("a", DataLoader(Drawing(), batch_sampler=[[0, 1], [5]])), lambda batch: batch, twice.sample)
    for drawn, stream_of in ((own.epoch([], 7, 3), (7, "reading", 3)), (own.batches(9), (0, "evaluation"))):
        for number, batch in enumerate(drawn):
            with everywhere(*stream_of, number):
                assert torch.equal(batch.images, torch.stack([Drawing()[index][0] for index in [[0, 1], [5]][number]]))


def test_a_streamed_data_set_in_full(monkeypatch):
    """What is said about it, how it is normalised and resized, and the hashes that tell it from another."""
    data = load_data(DataConfig(name="other_tasks:lone", subset=20, image_size=4))
    anew = "training samples are read anew in each epoch, since they are drawn at random"
    assert data.remarks == (
        anew,
        "the validation and test samples are drawn from the training samples and have their random transforms; give "
        "data sets without them",
    )
    assert data.train.head(1).images.shape == (1, 1, 4, 4)
    images = torch.cat([batch.images for batch in data.train.batches(5)])
    sample = data.train.sample.images
    assert abs(float(sample.mean())) < 1e-5
    assert abs(float(sample.std(correction=0)) - 1) < 1e-5
    assert images.shape == sample.shape == (16, 1, 4, 4)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (data.pixels.whole, data.pixels.files, data.classes) == (False, False, ("dark", "bright"))
    splits = {"train": data.train.sample, "validation": data.validation, "test": data.test}
    assert data.fingerprint == {name: f"{len(one)} {one.digest()}" for name, one in splits.items()}

    steady = load_data(DataConfig(name="other_tasks:steady", in_memory=False))
    streams = {split: f"other_tasks:steady: {split}" for split in ("train", "validation", "test")}
    assert {split: one.reader.name for split, one in steady.splits().items()} == streams
    assert steady.remarks == ("training samples are read anew in each epoch, since data.in_memory is false",)
    raw = torch.cat([image[None] for image in other_tasks.steady()[0].images])
    mean, std = raw.double().mean(), raw.double().std(correction=0)
    assert (steady.mean[0], steady.std[0]) == (pytest.approx(float(mean)), pytest.approx(float(std)))
    found = torch.cat([batch.images for batch in steady.train.batches(7)])
    assert torch.allclose(found, ((raw - mean) / std).float(), atol=1e-5)

    memory = load_data(DataConfig(name="other_tasks:augmented"))
    assert memory.remarks == (anew,)
    assert (len(memory.validation), len(memory.test), isinstance(memory.test, Split)) == (20, 20, True)
    with pytest.raises(ConfigError) as caught:
        load_data(DataConfig(name="other_tasks:lone_weighted", subset=9))
    assert str(caught.value) == (
        "other_tasks:lone_weighted: validation and test samples cannot be drawn from a loader with a sampler or with "
        "batches of its own; give (train, validation, test)"
    )
    with pytest.raises(
        ConfigError, match=r"^other_tasks:weighted: a subset cannot be drawn from a loader with a sampler"
    ):
        load_data(DataConfig(name="other_tasks:weighted", subset=9))
    with pytest.raises(
        ConfigError, match=r"^other_tasks:masks: image_size is for images \(C, H, W\) with class numbers;"
    ):
        load_data(DataConfig(name="other_tasks:masks", image_size=4, in_memory=False))
    masks = load_data(DataConfig(name="other_tasks:masks", in_memory=False))
    assert (masks.classes, masks.outputs, masks.train.largest) == ((), 2, 1)
    numbers = load_data(DataConfig(name="other_tasks:regression", in_memory=False))
    assert (numbers.classes, numbers.train.largest, numbers.train.head(2).labels.dtype) == ((), 0, torch.float32)
    monkeypatch.setattr(stream, "SAMPLES", 4)
    found = load_data(DataConfig(name="other_tasks:signals", in_memory=False))
    assert (found.classes, found.train.classes) == (("0", "1", "2"), 3)


@pytest.mark.parametrize(
    ("given", "in_order"),
    [
        (DataLoader(DATA, 4, shuffle=True, drop_last=True), True),
        (DataLoader(DATA, 4, shuffle=True, collate_fn=own_collate), True),
        (DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True)), False),
        (DataLoader(Drawing(), 4), True),
        (Drawing(), True),
    ],
    ids=["shuffled", "collated", "sampled", "loader of random samples", "random samples"],
)
def test_data_in_memory_do_not_depend_on_what_was_drawn_before(given, in_order):
    """Each reading gives the same samples in the same order, so that all processes draw the same splits from them."""
    readings = []
    for seed in range(2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        state = torch.get_rng_state()
        readings.append(read_torch.read_torch("mine", {"train": given})["train"])
        assert torch.equal(torch.get_rng_state(), state)
    assert readings[0].digest() == readings[1].digest()
    assert not in_order or torch.equal(readings[0].labels, torch.arange(len(readings[0])))
