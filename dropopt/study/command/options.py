"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass


Storage = Annotated[
    str | None,
    typer.Option(
        help="Any Optuna storage: a URL, a SQLite or a journal file. Default: OPTUNA_STORAGE, else runs/dropopt.db.",
        show_default=False,
    ),
]

StudyName = Annotated[
    str | None,
    typer.Option("--study", "--study-name", help="Default: the only study in the storage.", show_default=False),
]
