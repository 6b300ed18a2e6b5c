"""The files of a study's checkpoints: their paths and their removal."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from dropopt.files import clear_leftovers
from dropopt.study.store.url import file_of
from dropopt.study.store.weights import stem_of

#: The suffix of the checkpoints of trials that have ended.
KEPT = ".kept"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one study: one file for each trial that is not finished.

    A trial that continues another one, whose worker died, uses the file of the first trial of that chain, its *root*.

    Args:
        folder: The folder of the files. Workers on other machines find them if they share it.
        study: What :func:`~dropopt.study.store.experiment.name_of_files` returns for the study.
    """

    folder: Path
    study: str

    def path(self, root: int) -> Path:
        """Return the file of a trial. It is always inside the folder, and no two names of studies share a file."""
        return self.folder.absolute() / f"{stem_of(self.study)}-{root}.pt"

    def sweep(self, in_use: Callable[[], Collection[int]]) -> None:
        """Remove the files of trials that have ended.

        A worker may die after a trial ends, before it removes its files. A worker that was stopped for longer than the
        grace period may write a file of a trial that another worker has completed in the meantime.

        Args:
            in_use: Returns the roots of the trials that may need their files. It is called after the files are listed,
                so that no file of a trial that starts in the meantime is removed.
        """
        name = re.compile(rf"\.?{re.escape(stem_of(self.study))}-(\d+)\.pt(\.bad|\.\w+\.tmp)?")
        with contextlib.suppress(OSError):  # there is no folder, or its server does not answer
            matches = [name.fullmatch(path.name) for path in self.folder.absolute().iterdir()]
            if found := {int(match[1]) for match in matches if match}:
                for number in found.difference(in_use()):
                    remove(self.path(number))


def keep(path: Path, count: int) -> None:
    """Keep the checkpoint of a trial that has ended, to continue it later, and only the latest ``count`` of its study.

    It gets another name, because retries of the trial must not start from it.
    """
    with contextlib.suppress(OSError):
        path.replace(_kept(path))
    prefix = path.stem.rpartition("-")[0]
    with contextlib.suppress(OSError):  # another worker may remove files at the same time
        files = sorted(path.parent.glob(f"{prefix}-*{KEPT}"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[count:]:
            file.unlink()
    remove(path)


def is_kept(path: Path) -> bool:
    """Whether a trial that has ended can be continued from a checkpoint."""
    return _kept(path).exists() or path.exists()


def restore(path: Path) -> None:
    """Use the kept checkpoint of a trial again, if there is one."""
    with contextlib.suppress(OSError):
        _kept(path).replace(path)


def _kept(path: Path) -> Path:
    return path.with_suffix(KEPT)


def remove(path: Path) -> None:
    """Remove a checkpoint, its damaged and incomplete copies, and the folder if it is then empty."""
    for file in (path, path.with_name(path.name + ".bad")):
        with contextlib.suppress(OSError):
            file.unlink()
    clear_leftovers(path)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def folder_of(given: str | None, url: str) -> Path | None:
    """Return the folder of the checkpoints: the one that was ``given``, else one beside the file of the storage.

    Returns:
        The folder; None, for no checkpoints, if none was given and the storage is not a file.
    """
    if given is not None:
        return Path(given).expanduser()
    path = file_of(url)
    return None if path is None else path.absolute().with_name(path.name + ".checkpoints")
