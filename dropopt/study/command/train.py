"""``dropopt train``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dropopt.config import RunConfig
    from dropopt.study.after.retrain import Estimate


def train(
    file: Annotated[Path, typer.Argument(help="A configuration: best.yaml, as written by dropopt export.")],
    epochs: Annotated[int | None, typer.Option(help="Default: as in the file.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Default: as in the file.", show_default=False)] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ... Default: as in the file.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="1, as in a study, repeats the trial exactly.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the network's weights (state_dict) here.", show_default=False),
    ] = None,
) -> None:
    """Train with a configuration file.

    Reports validation accuracy and, once, test accuracy.
    """
    from dropopt.export import load
    from dropopt.study.after.retrain import check_writable, configured, retrain, save_weights
    from dropopt.study.show.console import make_console, say
    from dropopt.study.show.progress import Epochs

    exported = load(file)
    options = {"epochs": epochs, "seed": seed, "device": device}
    run = configured(exported, {name: value for name, value in options.items() if value is not None})
    if output is not None:
        check_writable(output)
    console = make_console()
    say(console, _opening(file, run, exported.provenance))
    with Epochs(console) as shown:
        done = retrain(
            run,
            exported.provenance,
            threads=threads,
            on_notice=lambda notice: say(console, f"note: {notice}", "yellow"),
            on_epoch=shown.show,
        )
    best, last = done.result.best_epoch, len(done.result.history)
    say(console, f"validation: {_words(done.validation)}, best epoch {best} of {last}")
    say(console, f"test:       {_words(done.test)}", "bold")
    if output is not None:
        save_weights(done.weights, output)
        say(console, f"weights in {output}")


def _opening(file: Path, run: RunConfig, provenance: Mapping[str, Any]) -> str:
    source = f" (study {provenance['study']}, trial {provenance.get('trial')})" if "study" in provenance else ""
    what = f"{run.model.name} on {run.data.name}, {run.train.epochs} epochs, seed {run.train.seed}"
    return f"{file}{source}: {what}"


def _words(estimate: Estimate) -> str:
    return f"accuracy {_share(estimate.accuracy, estimate.n)}, loss {estimate.loss:.4f}"


def _share(share: float, n: int) -> str:
    """``0.9833 +- 0.0068 (n = 360)``: a share and its standard error."""
    # Agresti-Coull's centre: an observed share of 1 is no proof that there is no error.
    centre = (share * n + 2) / (n + 4)
    return f"{share:.4f} +- {math.sqrt(centre * (1 - centre) / (n + 4)):.4f} (n = {n})"
