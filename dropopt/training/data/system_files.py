"""Files and folders that file managers, NAS devices, archives and operating systems add to a user's own.

Many contain thumbnails. If a thumbnail were read as an image, this resized copy could end up in another class or split
than its original, and the test split would then contain training images.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from dropopt.numbers import quantity

#: Names, compared without case. Names that begin with a dot need no entry: .thumbnails, .AppleDouble, ._1.jpg.
NAMES = frozenset(
    name.casefold()
    for name in (
        *("@eaDir", "@tmp", "@SynoResource", "@sharesnap", "#recycle", "#snapshot"),  # Synology
        *("@Recycle", "@Recently-Snapshot", "@Transcode", "@__thumb"),  # QNAP
        *("__MACOSX", "Network Trash Folder", "Temporary Items", "TheVolumeSettingsFolder"),  # macOS
        *("$RECYCLE.BIN", "RECYCLER", "System Volume Information"),  # Windows
        *("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("lost+found", "~snapshot"),  # Linux, NetApp
    )
)


def is_system(name: str) -> bool:
    """Whether a file or folder of this name belongs to the system or is hidden."""
    return name.startswith(".") or name.casefold() in NAMES


def count_images(folder: Path, suffixes: tuple[str, ...]) -> int:
    """Number of files below ``folder`` that have one of the suffixes."""
    names = (name for _, _, names in os.walk(folder) for name in names)
    return sum(os.path.splitext(name)[1].lower() in suffixes for name in names)


def remark(skipped: Counter[str]) -> list[str]:
    """A sentence about the images in system folders, counted by the folder's name; none if there are no such images."""
    if not skipped.total():
        return []
    places = ", ".join(f"{count} in {name}" for name, count in skipped.most_common(3))
    more = f" and {quantity(len(skipped) - 3, 'other folder')}" if len(skipped) > 3 else ""
    images, are = quantity(skipped.total(), "image"), "is" if skipped.total() == 1 else "are"
    return [f"{images} in system or hidden folders {are} left out: {places}{more}"]
