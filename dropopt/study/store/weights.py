"""The weights of completed trials on their way to the artifacts of a study: one file for each trial.

The process that trains writes the file. The process that keeps the study's page makes artifacts of the best trials'
files, and removes the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

#: Networks with more bytes of weights are not kept.
LIMIT = 64 * 2**20

#: Characters of a study's name that are kept in a file's name.
NAME_CHARACTERS = 40

_SUFFIX = ".safetensors"


def stem_of(study: str) -> str:
    """The beginning of the names of a study's files.

    Args:
        study: What :func:`~dropopt.study.store.experiment.name_of_files` returns for the study. No two share a stem.
    """
    safe = re.sub(r"[^A-Za-z0-9]+", "-", study).strip("-")[:NAME_CHARACTERS]
    return f"{safe or 'study'}-{hashlib.sha256(study.encode()).hexdigest()[:8]}"


def path_of(folder: Path, study: str, number: int) -> Path:
    """The file of trial ``number``.

    Args:
        folder: The folder of the artifacts.
        study: The study, as :func:`stem_of` takes it.
        number: The trial's number.
    """
    return folder.absolute() / f"weights-{stem_of(study)}-{number}{_SUFFIX}"


def remove_others(folder: Path, study: str, finished: Collection[int]) -> None:
    """Remove the files of the trials ``finished``; those of running trials stay."""
    prefix = f"weights-{stem_of(study)}-"
    for path in folder.absolute().glob(f"{prefix}*{_SUFFIX}"):
        number = path.stem.removeprefix(prefix)
        if number.isdecimal() and int(number) in finished:
            with suppress(OSError):  # another worker may remove it at the same time
                path.unlink()
