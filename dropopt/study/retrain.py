"""``dropopt train``: one configuration, trained in this process, and its one look at the test split."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dropopt.config import ConfigError, RunConfig
from dropopt.study import shipped
from dropopt.study.definition import add_to_path
from dropopt.study.progress import make_console, say
from dropopt.study.worker import StudyError

if TYPE_CHECKING:
    from dropopt.training import EpochReport


def retrain(file: Path, options: Mapping[str, Any], output: Path | None, threads: int = 1) -> None:
    """Train with the configuration in ``file``; ``options`` are training settings that override it.

    One thread, as in a study: on the same machine the same configuration then gives the same network, bit
    for bit, and small networks gain nothing from a second one.
    """
    from dropopt.export import load

    exported = load(file)
    run = exported.run
    if options:
        train = type(run.train).parse(run.train.model_dump() | dict(options))
        run = run.model_copy(update={"train": train})
    if output is not None:
        _check_writable(output)
    # `module:function` may name what lies here, as it does for a study's script.
    add_to_path(Path.cwd())
    sys.path.append(str(shipped.folder("studies")))  # last: a copy of a shipped script goes before it
    console = make_console()
    say(console, _opening(file, run, exported.provenance))

    import torch

    from dropopt import training

    torch.set_num_threads(threads)
    data = training.prepare(run)
    notices = list(data.notices)
    if exported.provenance.get("data_fingerprint", data.fingerprint) != data.fingerprint:
        notices.append("the data are not those of the study: it may have trained on what is tested on now")
    for notice in notices:
        say(console, f"note: {notice}", "yellow")
    try:
        with _Epochs(console) as epochs:
            result, model, _ = training.train_run(run, epochs.show)
    except training.DivergedError as error:
        raise StudyError(str(error)) from None
    accuracy = result.best_val_accuracy
    say(
        console,
        f"validation: accuracy {_estimate(accuracy, len(data.validation.labels))}, "
        f"loss {result.best_val_loss:.4f}, best epoch {result.best_epoch} of {len(result.history)}",
    )
    loss, accuracy = training.evaluate(model, data.test, run.train)
    say(console, f"test:       accuracy {_estimate(accuracy, len(data.test.labels))}, loss {loss:.4f}", "bold")
    if output is not None:
        _save(model.state_dict(), output)
        say(console, f"weights in {output}")


class _Epochs:
    """A line that follows training on a terminal; nothing when piped."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> _Epochs:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, report: EpochReport) -> None:
        """An epoch has ended."""
        if self._live is not None:
            line = (
                f"epoch {report.epoch} of {report.epochs}  training loss {report.train_loss:.4f}  "
                f"validation loss {report.val_loss:.4f}  accuracy {report.val_accuracy:.4f}"
            )
            self._live.update(Text(line), refresh=True)


def _opening(file: Path, run: RunConfig, provenance: Mapping[str, Any]) -> str:
    source = f" (study {provenance['study']}, trial {provenance.get('trial')})" if "study" in provenance else ""
    what = f"{run.model.name} on {run.data.name}, {run.train.epochs} epochs, seed {run.train.seed}"
    return f"{file}{source}: {what}"


def _estimate(share: float, n: int) -> str:
    """``0.9833 +- 0.0068 (n = 360)``: a share and its standard error."""
    # Agresti-Coull's centre: an observed share of 1 is no proof that there is no error.
    centre = (share * n + 2) / (n + 4)
    return f"{share:.4f} +- {math.sqrt(centre * (1 - centre) / (n + 4)):.4f} (n = {n})"


def _save(weights: Mapping[str, Any], path: Path) -> None:
    import torch

    from dropopt.training.files import write_whole

    buffer = io.BytesIO()
    torch.save(weights, buffer)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise StudyError(f"the weights cannot be written to {path}: {error.strerror or error}") from None


def _check_writable(path: Path) -> None:
    """Before minutes of training, not after."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"{path} cannot be written: {'it is a folder' if path.is_dir() else 'its folder does not exist'}"
        )
