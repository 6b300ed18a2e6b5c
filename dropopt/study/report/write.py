"""Writing a report and its pictures."""

from __future__ import annotations

import io
from pathlib import Path

from dropopt.config import ConfigError
from dropopt.files import write_whole
from dropopt.study.report.build import MARK, Report

#: Dots per inch of a picture, enough for print.
DPI = 200
#: Bytes of a file that are read to recognise a report.
HEAD = 4096


def check_name(path: Path) -> None:
    """Raise :class:`ConfigError` if a file of this name would not be opened by a browser."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"a report is an HTML file, got {path}; give {path.with_suffix('.html')}")


def check_same_report(path: Path, study: str) -> None:
    """Check that ``path`` does not exist, or is an earlier report of the same study.

    Raises:
        ConfigError: The file exists and is not a report of the same study.
    """
    from markupsafe import escape  # as the template escapes it

    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(HEAD).decode("utf-8", "replace")
    if f'{MARK}"{escape(study)}"' not in head:
        what = "reports another study" if MARK in head else "was not written by dropopt report"
        raise ConfigError(f"{path} exists and {what}; give another file with -o, or --force to replace it")


def write(path: Path, report: Report) -> None:
    """Write the page; an existing file is replaced."""
    try:
        write_whole(path, report.html.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None


def write_pictures(folder: Path, report: Report) -> list[Path]:
    """Write each chart as a PNG file into ``folder``, which is created if it does not exist; return the files."""
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in report.charts:
            paths.append(folder / f"{chart.name}.png")
            picture = io.BytesIO()
            chart.figure.savefig(picture, format="png", dpi=DPI, facecolor="white")
            write_whole(paths[-1], picture.getvalue())
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from None
    return paths
