"""Images of files and arrays are prepared bit for bit as the training prepared its own."""

import numpy as np
import pytest
import torch
from PIL import Image
from samples import folder, images, npz

from dropopt.config import ConfigError, DataConfig
from dropopt.standalone.card import Inputs
from dropopt.standalone.images import from_array, from_files, image_files
from dropopt.training import load_data

pytestmark = pytest.mark.usefixtures("cache")


def inputs_of(data):
    """What a model file says about the images of ``data``, after a round trip through JSON."""
    height, width = data.image_size
    size = {"channels": data.channels, "height": height, "width": width}
    inputs = Inputs(**size, mean=data.mean, std=data.std, pixels=data.pixels)
    return Inputs.model_validate_json(inputs.model_dump_json())


def deep(root, scale):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray((images(9, 9) * scale).astype(np.uint16)).save(root / split / name / f"{i}.png")
    return f"folder:{root}"


@pytest.mark.parametrize("kind", ["RGB", "L", "16 bits"])
@pytest.mark.parametrize("side", [None, 7, 20])
def test_files_of_a_folder_are_prepared_as_its_test_split(tmp_path, kind, side):
    """Colours, greyscale and 16 bits; images that are made smaller, larger or left as they are."""
    root = tmp_path / "photos"
    if kind == "16 bits":
        name = deep(root, 200)
    else:
        folder(root / "train", mode=kind)
        name = folder(root / "test", mode=kind, n=4)
        name = f"folder:{root}"
    data = load_data(DataConfig(name=name, image_size=side))
    paths = image_files([root / "test"])
    assert torch.equal(from_files(paths, inputs_of(data))[1], data.test.images)


@pytest.mark.parametrize("side", [None, 5, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_and_their_files_are_prepared_alike(tmp_path, side, channels):
    shape = (8, 8) if channels == 1 else (8, 8, 3)
    y = np.arange(40) % 2
    arrays = {"x": images(40, *shape), "x_test": images(6, *shape)}
    data = load_data(DataConfig(name=npz(tmp_path / "a.npz", **arrays, y=y, y_test=y[:6]), image_size=side))
    inputs = inputs_of(data)
    given = arrays["x_test"] if channels == 1 else arrays["x_test"].transpose(0, 3, 1, 2)
    assert torch.equal(from_array(given, inputs), data.test.images)
    for number, pixels in enumerate(arrays["x_test"]):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    assert torch.equal(from_files(image_files([tmp_path]), inputs)[1], data.test.images)


def test_digits_have_sixteen_levels(tmp_path):
    """A picture with white at 255 is brought to the 16 of the data, and rounded to its levels."""
    from sklearn.datasets import load_digits

    data = load_data(DataConfig(name="digits"))
    digits = load_digits().images[:3]
    for number, pixels in enumerate(digits):
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(tmp_path / f"{number}.png")
    assert torch.equal(from_files(image_files([tmp_path]), inputs_of(data))[1], from_array(digits, inputs_of(data)))


def test_colour_becomes_grey_for_a_grey_network(tmp_path):
    """By the usual weights of red, green and blue."""
    inputs = inputs_of(load_data(DataConfig(name=folder(tmp_path / "a", mode="L"))))
    pixels = images(inputs.height, inputs.width, 3)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    Image.fromarray(pixels).convert("L").save(tmp_path / "grey.png")
    colour, grey = from_files([tmp_path / "colour.png", tmp_path / "grey.png"], inputs)[1]
    assert (colour - grey).abs().max() * inputs.std[0] < 1.01, "Pillow rounds in another way"


def test_what_cannot_be_prepared_is_reported(tmp_path):
    inputs = inputs_of(load_data(DataConfig(name=folder(tmp_path / "a"))))
    Image.fromarray(images(5, 5).astype(np.float32)).save(tmp_path / "deep.tif")
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "empty").mkdir()
    own = inputs.model_copy(update={"mean": (), "std": ()})
    for call, said in (
        (
            lambda: from_files([tmp_path / "deep.tif"], inputs),
            "the training's images at 255.0, so the two scales cannot",
        ),
        (lambda: from_files([tmp_path / "text.png"], inputs), r"text\.png cannot be read as an image"),
        (lambda: from_files([tmp_path / "text.png"], own), "a function of yours had normalised"),
        (lambda: from_array(images(2, 4, 4), inputs), r"images must be \(N, 3, H, W\) and not empty, got \(2, 4, 4\)"),
        (lambda: image_files([tmp_path / "empty"]), r"empty has no image files \(\.jpg"),
        (lambda: image_files([tmp_path / "none"]), "none: no such file or folder"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
