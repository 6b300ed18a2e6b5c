"""Data against definitions that are written out again, or that another library computes."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from samples import images, npz
from scipy.stats import entropy
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from dropopt.config import ConfigError, DataConfig
from dropopt.training import Split, load_data
from dropopt.training.data.complexity import complexity
from dropopt.training.data.read_arrays import from_arrays
from dropopt.training.data.read_folder import read_folder
from dropopt.training.data.read_image import Pixels, read_image
from dropopt.training.data.stack import Stack
from dropopt.training.data.stratify import stratified

pytestmark = pytest.mark.usefixtures("cache")


# -- arrays

GAPS = {"": [7, 3, 10, 3], "_validation": [10, 7], "_test": [10, 3, 10]}


@pytest.mark.parametrize(
    "convert", [np.int16, str, np.bytes_, lambda y: y[:, None], lambda y: torch.tensor(y)], ids=range(5)
)
def test_labels_are_numbered_alike_in_every_split(convert):
    """A split that lacks classes, and labels with gaps: each image keeps the class that its array names."""
    arrays = {}
    for suffix, labels in GAPS.items():
        y = np.array(labels)
        arrays[f"x{suffix}"] = y[:, None, None] * np.ones((1, 2, 3), int)
        arrays[f"y{suffix}"] = y.astype(convert) if isinstance(convert, type) else convert(y)
    source = from_arrays("a", arrays)
    assert source.classes == (("10", "3", "7") if convert in (str, np.bytes_) else ("3", "7", "10"))
    for split, labels in zip((source.train, source.validation, source.test), GAPS.values(), strict=True):
        assert split.images[:, 0, 0, 0].tolist() == labels
        assert [source.classes[number] for number in split.labels.tolist()] == [str(label) for label in labels]


@pytest.mark.parametrize(
    ("channels", "size"), [*itertools.product(range(1, 6), [(7, 7), (7, 9)]), (13, (16, 16)), (1, (4, 4)), (3, (2, 2))]
)
def test_pixels_keep_their_places(channels, size):
    """Both layouts of an image give the same pixels; 1 to 4 channels, or equal sides, tell the layouts apart."""
    x = images(3, channels, *size)
    for given in (x, x.transpose(0, 2, 3, 1)):
        if given is not x and channels == 5 and size[0] != size[1]:
            continue  # taken for channels first, as in PyTorch
        found = from_arrays("a", {"x": given, "y": [0, 1, 0]}).train.images
        assert found.dtype == torch.uint8
        assert (found.numpy() == x).all()


def test_types_of_pixels():
    """Booleans are 8 bits; other numbers are float32; one split of another width makes all splits float32."""
    y, x = [0, 1], np.array([[[0, 1]], [[1, 0]]])
    assert from_arrays("a", {"x": x.astype(bool), "y": y}).train.images.dtype == torch.uint8
    for kind in (np.int8, np.uint16, np.float16, np.float64):
        found = from_arrays("a", {"x": x.astype(kind), "y": y}).train.images
        assert found.dtype == torch.float32
        assert found.flatten().tolist() == [0, 1, 1, 0]
    source = from_arrays("a", {"x": x.astype(np.uint8), "y": y, "x_test": 300 * x, "y_test": y})
    assert source.train.images.dtype == source.test.images.dtype == torch.float32
    assert source.test.images.flatten().tolist() == [0, 300, 300, 0]


@pytest.mark.parametrize("labels", [[0, 2], [-1, 1]])
def test_numbers_beyond_the_named_classes_are_refused(labels):
    """With two names, the labels are 0 and 1."""
    with pytest.raises(ConfigError, match=r"^a: with classes given, labels must be integers in \[0, 1\]$"):
        from_arrays("a", {"x": images(2, 2, 2), "y": labels, "classes": ["a", "b"]})


def test_what_is_no_array_is_refused():
    """Images of several sizes, and tensors that NumPy cannot hold; a bfloat16 tensor is converted."""
    ragged, sparse = [images(5, 5), images(6, 6)], torch.eye(4).to_sparse()
    with pytest.raises(ConfigError, match=r"^a: x must be one array; all images must have one size$"):
        from_arrays("a", {"x": ragged, "y": [0, 1]})
    with pytest.raises(ConfigError, match=r"^a: images must be an array or a plain tensor: .*[Ss]parse"):
        from_arrays("a", {"images": sparse, "y": [0, 1]})
    with pytest.raises(ConfigError, match=r"^a must have x and y .or images and labels., got: nothing$"):
        from_arrays("a", {})
    with pytest.raises(ConfigError, match=r"^a: unknown array 1; known: x, y, "):
        from_arrays("a", {1: images(2, 3, 3)})
    half = torch.full((2, 3, 3), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert (from_arrays("a", {"x": half, "y": [0, 1]}).train.images == 0.5).all()


# -- splits


def test_resizing_is_torchvisions(tmp_path):
    x = images(12, 3, 20, 31)
    x[0] = 255
    found = load_data(DataConfig(name=npz(tmp_path / "a.npz", x=x, y=np.arange(12) % 2), image_size=11))
    std, mean = (torch.tensor(value).view(-1, 1, 1) for value in (found.std, found.mean))
    back = torch.cat([split.images for split in found.splits().values()]) * std + mean
    expected = resize(torch.from_numpy(x).float(), [11, 11], InterpolationMode.BILINEAR, antialias=True).round()
    assert {tuple(image.round().flatten().tolist()) for image in back} == {
        tuple(image.flatten().tolist()) for image in expected
    }


def test_all_splits_are_resized(tmp_path):
    """Also those that the data set brings; the sides are those of ``image_size``, once they differ from it."""
    x, y = images(12, 1, 8, 20), np.arange(12) % 2
    more = {"x_validation": x[:4], "y_validation": y[:4], "x_test": x[4:], "y_test": y[4:]}
    name = npz(tmp_path / "a.npz", x=x, y=y, **more)
    for side in (8, 20, 7):
        data = load_data(DataConfig(name=name, image_size=side))
        assert {split.images.shape[1:] for split in data.splits().values()} == {(1, side, side)}
        assert torch.equal(data.validation.images, data.train.images[:4])
        assert torch.equal(data.test.images, data.train.images[4:])
        assert data.test.labels.tolist() == y[4:].tolist()
        assert (data.pixels.white, data.pixels.whole, data.pixels.files) == (255.0, True, False)


def test_a_digest_covers_values_types_and_shapes():
    split = Split(torch.arange(12.0).view(2, 1, 2, 3), torch.tensor([1, 0]))
    digest = hashlib.sha256()
    for tensor in (split.images, split.labels):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    assert split.digest() == digest.hexdigest()
    assert Split(split.images.to(memory_format=torch.channels_last), split.labels).digest() == split.digest()
    others = (
        Split(split.images.view(2, 1, 3, 2), split.labels),
        Split(split.images.view(torch.int32), split.labels),
        Split(split.images, 1 - split.labels),
        Split(split.images + 1, split.labels),
    )
    assert len({split.digest(), *(other.digest() for other in others)}) == 5


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([50, 30, 2, 2], 9, [5, 2, 1, 1]),  # quotas 5.4, 3.2, 0.2, 0.2: the small classes take one from the second
        ([50, 30, 20], 11, [6, 3, 2]),  # 5.5, 3.3, 2.2: the largest remainder is rounded up
        ([4, 4, 50], 50, [3, 3, 44]),  # 3.4, 3.4, 43.1, and one image of each class is spared
        ([2, 2, 8], 9, [1, 1, 7]),
    ],
)
def test_stratified_numbers_by_hand(sizes, count, expected):
    """Quotas, with at least one image drawn and one left of each class."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    for seed in (0, 1):
        chosen = stratified(labels, count, least=1, spare=1, seed=seed, purpose="p")
        assert torch.bincount(labels[chosen]).tolist() == expected


# -- image files


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_orientation_is_pillows(tmp_path, orientation, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6)).astype(dtype)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "b.png", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "b.png")))
    assert (read_image(tmp_path / "a.png", 6).array == upright).all()


def test_a_large_photograph_keeps_its_details(tmp_path):
    """A JPEG is decoded at a fraction of its size, but at no less than twice the size that is asked for."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200)).astype(np.uint8).repeat(2, 0).repeat(2, 1)
    Image.fromarray(np.stack([pixels, pixels.T, 255 - pixels], -1)).save(tmp_path / "a.jpg", quality=95)

    def decoded(side):
        with Image.open(tmp_path / "a.jpg") as file:
            file.draft("RGB", (side, side))
            return np.asarray(file.resize((50, 50), Image.Resampling.BICUBIC)).transpose(2, 0, 1).astype(int)

    error = np.abs(read_image(tmp_path / "a.jpg", 50).array - decoded(400)).mean()
    assert 0 < error < 0.7 * np.abs(decoded(50) - decoded(400)).mean()


def test_a_transparent_greyscale_file_is_white_where_it_is_clear(tmp_path):
    """Its transparent level becomes white, and it counts as a file with colours."""
    image = Image.fromarray(np.array([[10, 20], [20, 30]], np.uint8))
    image.save(tmp_path / "a.png", transparency=20)
    found = read_image(tmp_path / "a.png", 2)
    assert found.array[0].tolist() == [[10, 255], [255, 30]]
    assert not found.grey


@pytest.mark.parametrize(("levels", "refused"), [((200, 3), False), ((3, 127), False), ((126, 3), True)])
def test_the_brightest_of_all_truncated_images_decides(tmp_path, levels, refused):
    """Files of 16 bits per colour of which the upper 8 were read are refused if none of them uses the highest bit."""
    stack = Stack("a", 2, 2)
    for level in levels:
        stack.add(tmp_path / "a.png", Pixels(np.full((3, 2, 2), level, np.uint8), False, 255, truncated=True))
    if refused:
        with pytest.raises(ConfigError, match="2 images have 16 bits per colour, of which fewer than 15"):
            stack.images()
    else:
        assert stack.images()[:, 0, 0, 0].tolist() == list(levels)
        assert stack.images().dtype == torch.uint8


def test_a_folder_is_read_in_order_of_names(tmp_path):
    made = {}
    for split, side in (("train", 12), ("test", 30)):
        for number, label in enumerate(("zebra", "ant", "lion")):
            (tmp_path / split / label).mkdir(parents=True)
            for name, value in (("b.PNG", 10), ("a.png", 20), ("c.png", 30)):
                Image.new("L", (side, side), 3 * number + value).save(tmp_path / split / label / name)
                made[split, label, name] = 3 * number + value
    source = read_folder(tmp_path, None)
    assert (source.classes, source.white, source.files) == (("ant", "lion", "zebra"), 255, True)
    for split, found in (("train", source.train), ("test", source.test)):
        assert found.images.shape == (9, 1, 12, 12)
        expected = [made[split, label, name] for label in source.classes for name in ("a.png", "b.PNG", "c.png")]
        assert found.images[:, 0, 5, 5].tolist() == expected
        assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(("sides", "expected"), [((2, 2), 4), ((10, 40), 10), ((63, 90), 63), ((70, 200), 64)])
def test_the_default_size_is_between_4_and_64(tmp_path, sides, expected):
    """It is the shorter side of the images, within these limits."""
    root = tmp_path / "photos"
    for label in "ab":
        (root / label).mkdir(parents=True)
        Image.new("L", sides).save(root / label / "1.png")
    assert read_folder(root, None).train.images.shape[2:] == (expected, expected)
    for label in "ab":
        (root / label / "1.png").write_text("text")
    with pytest.raises(ConfigError) as caught:
        read_folder(root, None)
    assert str(caught.value).startswith(f"{root / 'a' / '1.png'} cannot be read as an image: ")


# -- complexity


def split_of(n, classes, side=14, noise=1.5):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    centres = rng.normal(size=(classes, 2, side, side))
    pictures = centres[labels] + noise * rng.normal(size=(n, 2, side, side)) * np.sqrt(side)
    return Split(torch.from_numpy(pictures).float(), torch.from_numpy(labels))


@pytest.mark.parametrize(("n", "side"), [(400, 14), (3100, 7)])
def test_complexity_is_scikit_learns(n, side):
    """Entropy over its maximum, times the error of linear discriminant analysis on 32 components, 3 folds."""
    split = split_of(n, 4, side, noise=1.5 if side > 7 else 3)
    chosen = torch.ones(n, dtype=torch.bool)
    if n > 3000:
        chosen = stratified(split.labels, 3000, least=3, spare=0, seed=0, purpose="complexity")
    small = torch.nn.functional.adaptive_avg_pool2d(split.images[chosen], min(side, 12)).flatten(1).double().numpy()
    features = PCA(32, svd_solver="full").fit_transform(small)
    scores = cross_val_score(
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        features,
        split.labels[chosen].numpy(),
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    )
    assert 0.1 < scores.mean() < 0.9
    assert complexity(split, 5) == pytest.approx(
        entropy(np.bincount(split.labels)) / math.log(5) * (1 - scores.mean()), abs=2e-3
    )


def test_rare_classes_are_left_out_of_the_folds_but_not_of_the_entropy():
    """The error is that of the other classes. One class with three or more images is always recognised."""
    other, rare = split_of(120, 4), torch.tensor([4, 5, 5])
    split = Split(torch.cat([other.images, torch.randn(3, 2, 14, 14)]), torch.cat([other.labels, rare]))
    entropies = [entropy(np.bincount(one.labels)) / math.log(classes) for one, classes in ((split, 6), (other, 4))]
    assert complexity(split, 6) / entropies[0] == pytest.approx(complexity(other, 4) / entropies[1]) != 0
    split = Split(torch.randn(12, 1, 4, 4), torch.tensor([0] * 10 + [1, 2]))
    assert complexity(split, 3) == 0
    none = Split(torch.randn(4, 1, 4, 4), torch.tensor([0, 0, 1, 1]))
    assert complexity(none, 2) == 0
