"""The table of predictions on a terminal of 80 columns."""

import pytest
from printed import printed

from dropopt.standalone.model import Prediction
from dropopt.study.show.predictions import show_predictions

CLASSES = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "Ankle boot")


def shown(images, note="", information=0.0123):
    """What is printed of an image of each class, in lines."""
    found = [
        Prediction(image, CLASSES[place % 10], 0.51234, {}, 1.2, information, note if place == 2 else "")
        for place, image in enumerate(images)
    ]
    text = printed(lambda console: show_predictions(console, found), width=80)
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("information", [0.0123, None])
def test_each_image_has_one_line(information):
    """The common folder is in the title, and what to note is below the table, so that names are not broken."""
    images = [f"/home/someone/photographs/shop/2023/IMG_20230901_12345{number}_HDR.jpeg" for number in range(10)]
    lines = shown(images, "hardly any contrast", information)
    assert lines[0] == "images in /home/someone/photographs/shop/2023/"
    rows = [line for line in lines if "0.5123" in line]
    assert [row.split()[0] for row in rows] == [image.rpartition("/")[2] for image in images]
    assert all(name in row for name, row in zip(CLASSES, rows, strict=True))
    (note,) = (line for line in lines if line.startswith("note: "))
    assert note.startswith(f"note: {images[2]}:")


def test_folders_that_differ():
    """A common part of names is no folder; absolute and relative names have nothing in common."""
    assert [line.split()[0] for line in shown(["photos1/a.png", "photos2/a.png"])[-2:]] == [
        "photos1/a.png",
        "photos2/a.png",
    ]
    assert shown(["photos/x/a.png", "photos/y/a.png"])[0] == "images in photos/"
    title, *_, first, _ = shown(["./photos/a.png", "photos//b.png"])
    assert (title, first.split()[0]) == ("images in photos/", "a.png")
    assert shown(["/a.png", "b.png"])[-2].split()[0] == "/a.png"
