"""``dropopt predict``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dropopt.formats import printable
from dropopt.study.command import options
from dropopt.study.command.errors import FAILED

if TYPE_CHECKING:
    from dropopt.standalone.model import Prediction


def predict(
    model: options.ModelPath,
    images: options.Images = None,
    samples: options.Samples = 0,
    seed: options.MaskSeed = 0,
    device: options.PredictDevice = "auto",
    card: options.ShowCard = False,
    as_json: options.AsJson = False,
    as_csv: options.AsCsv = False,
    code: options.Code = None,
    trust: options.Trust = False,
    quiet: options.PredictQuiet = False,
) -> int:
    """Classify images with a model that dropopt train has written.

    Images are prepared exactly as the training prepared its own. Probabilities are calibrated with the temperature that
    the training fitted on its validation images. Files that cannot be read are named and left out; the exit code is
    then 1.
    """
    from dropopt.config import ConfigError
    from dropopt.standalone.file import read_model
    from dropopt.standalone.load import load_model
    from dropopt.study.command.output import json_text
    from dropopt.study.show.console import make_console
    from dropopt.study.show.predictions import show_predictions

    if as_json and as_csv:
        raise ConfigError("give either --json or --csv, not both")
    if card:
        about = read_model(model).card
        print(json_text(about.model_dump(mode="json")) if as_json else printable("\n".join(about.lines())))
        return 0
    if not images:
        raise ConfigError("give image files or folders after the model, or --card to see what it is")
    ask = typer.confirm if sys.stdin.isatty() else None
    loaded = load_model(
        model,
        device=device,
        code=code or (),
        trust=trust,
        ask=ask,
        on_notice=None if quiet else lambda line: print(line, file=sys.stderr),
    )
    skipped: list[Path] = []

    def skip(path: Path, error: ConfigError) -> None:
        skipped.append(path)
        print(printable(f"skipped: {error}"), file=sys.stderr)

    found = loaded.predictions(images, samples=samples, seed=seed, on_unreadable=skip)
    if as_json:
        print(json_text([asdict(one) for one in found]))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows(_rows(found, loaded.classes, quiet=quiet))
    else:
        rows = list(found)
        if rows or not skipped:
            show_predictions(make_console(), rows)
    return FAILED if skipped else 0


def _rows(found: Iterable[Prediction], classes: tuple[str, ...], *, quiet: bool) -> Iterator[list[object]]:
    yield ["image", "label", "probability", "entropy", "mutual_information", *(f"p.{name}" for name in classes)]
    for one in found:
        if one.note and not quiet:
            print(printable(f"note: {one.image}: {one.note}"), file=sys.stderr)
        information = "" if one.mutual_information is None else one.mutual_information
        yield [one.image, one.label, one.probability, one.entropy, information, *one.probabilities.values()]
