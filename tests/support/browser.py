"""Headless Chromium, without a network: what a page contains once its scripts have run, and a picture of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

#: Where pictures are kept, for a person to look at. Default: the test's own folder.
PICTURES = os.environ.get("DROPOPT_PICTURES")


def open_page(url, folder, name, *, width=1400, height=2600, dark=False):
    """Open ``url``. Returns the page's DOM as text, and the path of a picture."""
    picture = Path(PICTURES or folder).absolute() / f"{name}.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-extensions"]
    options += [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", "--virtual-time-budget=15000"]
    # Every name but this machine's own is unknown.
    options += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--force-dark-mode"][: 2 if dark else 1]
    done = subprocess.run(
        [CHROMIUM, *options, f"--screenshot={picture}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return done.stdout, picture
