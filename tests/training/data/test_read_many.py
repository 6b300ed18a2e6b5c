"""Files that cannot be read are reported together."""

import pytest
from PIL import Image

from dropopt.config import ConfigError, DataConfig
from dropopt.training.data.load_data import load_data


def test_all_broken_images_of_a_folder_are_named(tmp_path, monkeypatch):
    """The first with its reason, the others by name, and what to do; without them the folder is read."""
    monkeypatch.setenv("DROPOPT_CACHE", str(tmp_path / "cache"))
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8), (number, 9, 9)).save(tmp_path / "photos" / name / f"{number}.png")
    broken = [tmp_path / "photos" / "cat" / f"a{number}.jpg" for number in range(5)]
    for path in broken:
        path.write_bytes(b"\xff\xd8 cut off")
    with pytest.raises(ConfigError) as caught:
        load_data(DataConfig(name=f"folder:{tmp_path / 'photos'}"))
    message = str(caught.value)
    assert message.startswith(f"{broken[0]} cannot be read as an image: ")
    assert f"; nor can {broken[1]}, {broken[2]}, {broken[3]} and 1 more; repair such files, or move them" in message
    for path in broken:
        path.unlink()
    assert len(load_data(DataConfig(name=f"folder:{tmp_path / 'photos'}")).train) > 0
