"""``dropopt train``."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dropopt.study.command.options import (
    Code,
    ConfigurationFile,
    Device,
    Threads,
    TrainEpochs,
    TrainSeed,
    Trust,
    WeightsOutput,
)

if TYPE_CHECKING:
    from dropopt.config import RunConfig
    from dropopt.study.after.retrain import Estimate


def train(
    file: ConfigurationFile,
    epochs: TrainEpochs = None,
    seed: TrainSeed = None,
    device: Device = None,
    threads: Threads = 1,
    output: WeightsOutput = None,
    code: Code = None,
    trust: Trust = False,
) -> None:
    """Train with a configuration file.

    Reports the validation accuracy and, once, the test accuracy. If the file names functions of your own, they are
    imported from --code, or from the script that you ran the study with.
    """
    from dropopt.export import load
    from dropopt.study.after.retrain import configured, retrain, save_weights
    from dropopt.study.command.output import check_writable
    from dropopt.study.define.shipped import folder
    from dropopt.study.show.console import make_console, say
    from dropopt.study.show.epochs import EpochProgress
    from dropopt.trust import settle

    exported = load(file)
    options = {"epochs": epochs, "seed": seed, "device": device}
    run = configured(exported, {name: value for name, value in options.items() if value is not None})
    if output is not None:
        check_writable(output)
    console = make_console()
    say(console, _header(file, run, exported.provenance))
    names = run.names
    recorded = exported.provenance.get("code")
    ask = typer.confirm if sys.stdin.isatty() else None
    shipped = folder("studies")
    for line in settle(names, recorded, given=str(file), code=code or (), trust=trust, ask=ask, shipped=shipped):
        say(console, line)
    with EpochProgress(console) as progress:
        done = retrain(
            run,
            exported.provenance,
            threads=threads,
            on_notice=lambda notice: say(console, f"note: {notice}", "yellow"),
            on_epoch=progress.show,
        )
    best, last = done.result.best_epoch, len(done.result.history)
    say(console, f"validation: {_scores(done.validation)}, best epoch {best} of {last}")
    say(console, f"test:       {_scores(done.test)}", "bold")
    if output is not None:
        save_weights(done.weights, output)
        say(console, f"weights written to {output}")


def _header(file: Path, run: RunConfig, provenance: Mapping[str, Any]) -> str:
    """What is trained, in one line."""
    source = f" (study {provenance['study']}, trial {provenance.get('trial')})" if "study" in provenance else ""
    what = f"{run.model.name} on {run.data.name}, {run.train.epochs} epochs, seed {run.train.seed}"
    return f"{file}{source}: {what}"


def _scores(estimate: Estimate) -> str:
    return f"accuracy {_with_error(estimate.accuracy, estimate.n)}, loss {estimate.loss:.4f}"


def _with_error(accuracy: float, n: int) -> str:
    """An accuracy and its standard error: ``0.9833 +- 0.0068 (n = 360)``."""
    # The estimate of Agresti and Coull: the plain standard error would be 0 for an observed accuracy of 1.
    centre = (accuracy * n + 2) / (n + 4)
    return f"{accuracy:.4f} +- {math.sqrt(centre * (1 - centre) / (n + 4)):.4f} (n = {n})"
