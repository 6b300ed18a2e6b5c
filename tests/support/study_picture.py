"""Makes the picture of a study in README.md: ``python tests/support/study_picture.py .github/images/study.svg``.

It runs ``dropopt run digits`` in a new folder, and draws what a terminal of 100 columns shows at the end.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from rich.console import Console

from dropopt import cli

LINE = "dropopt run digits"


def draw(path: Path) -> None:
    """Run the study and write the picture to ``path``."""
    from dropopt.study.session import session
    from dropopt.study.show import display

    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(f"$ {LINE}", style="bold", highlight=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(session, "make_console", lambda **_: console),
        patch.object(display, "Live"),  # progress is redrawn in place and is gone at the end
        patch.object(sys, "argv", LINE.split()),
    ):
        here = Path.cwd()
        os.chdir(folder)
        try:
            cli.main()
        finally:
            os.chdir(here)
            path.write_text(console.export_svg(title=LINE), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]).resolve())
