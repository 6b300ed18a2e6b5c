"""``dropopt train``."""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dropopt.numbers import fixed, quantity
from dropopt.study.command import options

if TYPE_CHECKING:
    from dropopt.config import RunConfig, TaskConfig
    from dropopt.export import Exported
    from dropopt.study.after.retrain import Estimate, Retrained

#: Suffixes of files of torch, for the weights alone.
WEIGHTS = (".pt", ".pth")


def train(
    file: options.ConfigurationFile = None,
    study: options.StudyName = None,
    trial: options.Trial = None,
    storage: options.Storage = None,
    epochs: options.TrainEpochs = None,
    seed: options.TrainSeed = None,
    image_size: options.ImageSize = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    settings: options.Set = None,
    threads: options.Threads = 1,
    output: options.WeightsOutput = None,
    checkpoints: options.TrainCheckpoints = None,
    code: options.Code = None,
    trust: options.Trust = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train with a configuration file, or with a trial of a study.

    Reports the validation accuracy and, once, the test accuracy. If the configuration names functions of your own, they
    are imported from --code, or from the script that you ran the study with.
    """
    from dropopt.config import ConfigError, TaskConfig
    from dropopt.standalone import SUFFIX
    from dropopt.standalone.describe import refuse_other_samples
    from dropopt.study.after.retrain import configured, retrain, save_model, save_weights
    from dropopt.study.command.output import check_writable, json_text
    from dropopt.study.define.settings import Setting
    from dropopt.study.show.console import busy, make_console, say, warnings_as_notes
    from dropopt.study.show.epochs import EpochProgress
    from dropopt.trust import settle

    given, exported = _source(file, study, trial, storage, quiet=quiet)
    by_option = {"epochs": epochs, "seed": seed, "device": device, "batch_size": batch_size}
    more = [Setting.read(text) for text in settings or ()]
    if image_size is not None:
        more.append(Setting("data", "image_size", image_size))
    run = configured(exported, {name: value for name, value in by_option.items() if value is not None}, more)
    if output is not None:
        check_writable(output)
        if output.suffix not in (SUFFIX, *WEIGHTS):
            raise ConfigError(
                f"{output}: the suffix must be {SUFFIX} for a model that stands alone, or {' or '.join(WEIGHTS)} for "
                "the weights alone"
            )
        if output.suffix == SUFFIX and run.task != TaskConfig():
            raise ConfigError(
                f"a {SUFFIX} model file is for classification by cross-entropy, and this configuration has a task of "
                f"its own; write the weights alone, with -o {output.with_suffix('.pt')}"
            )
    console = make_console(quiet=quiet, stderr=as_json)
    say(console, _header(given, run, exported.provenance))
    recorded = exported.provenance.get("code")
    ask = typer.confirm if sys.stdin.isatty() else None
    for line in settle(run.names, recorded, given=given, code=code or (), trust=trust, ask=ask):
        say(console, line)
    say(console, "loading torch, the data and the network", "dim")
    try:
        with warnings_as_notes(console), EpochProgress(console, run.task.score) as progress:
            done = retrain(
                run,
                exported.provenance,
                threads=threads,
                on_notice=lambda notice: say(console, f"note: {notice}", "yellow"),
                on_epoch=progress.show,
                checkpoints=checkpoints,
                check=refuse_other_samples if output is not None and output.suffix == SUFFIX else None,
            )
    except KeyboardInterrupt:
        kept = "the same command goes on where it was"
        lost = "nothing was kept; with --checkpoints DIR, the same command would go on where it was"
        say(console, f"stopped; {lost if checkpoints is None else kept}")
        raise
    best, last = done.result.best_epoch, len(done.result.history)
    say(console, f"validation: {_scores(done.validation, run.task)}, best epoch {best} of {last}")
    say(console, f"test:       {_scores(done.test, run.task)}", "bold")
    if output is not None and output.suffix == SUFFIX:
        with busy("measuring the calibration", quiet=quiet):
            save_or_rescue(lambda path: save_model(done, exported.provenance, path), output)
        quoted = shlex.quote(str(output))
        say(console, f"model written to {output}; classify images with it: dropopt predict {quoted} IMAGES")
    elif output is not None:
        save_or_rescue(lambda path: save_weights(done.weights, path), output)
        say(console, f"weights written to {output}")
    if as_json:
        print(json_text(_plain(done, output)))


def save_or_rescue(write: Callable[[Path], None], path: Path) -> None:
    """Write a trained network to ``path``; if that fails, to a new temporary folder, so that the training is not lost.

    Raises:
        StudyError: It could not be written to ``path``; the message says where it is.
    """
    from dropopt.config import ConfigError
    from dropopt.study.run.errors import StudyError

    try:
        write(path)
    except (ConfigError, StudyError) as error:
        try:
            rescued = Path(tempfile.mkdtemp(prefix="dropopt-"), path.name)
            write(rescued)
        except (ConfigError, StudyError, OSError):
            raise error from None
        raise StudyError(f"{error}; the trained network is in {rescued}") from None


def _source(
    file: Path | None, study: str | None, trial: int | None, storage: str | None, *, quiet: bool
) -> tuple[str, Exported]:
    """What is trained, in words, and its configuration: that of a file or that of a trial."""
    from dropopt.config import ConfigError
    from dropopt.export import Exported, load
    from dropopt.study.after.export import exported
    from dropopt.study.store.opening import opened_study
    from dropopt.study.store.queries import choose
    from dropopt.study.store.url import storage_hint

    if file is not None:
        if study is not None or trial is not None or storage is not None:
            raise ConfigError(f"give either the file {file} or a trial (--study, --trial, --storage), not both")
        return str(file), load(file)
    if study is None and trial is None and storage is None:
        raise ConfigError("give a configuration file, or a trial: --study NAME --trial N (default: the best trial)")
    with opened_study(storage, study) as found:
        chosen = choose(found, trial)
        configuration, provenance = exported(found, chosen, storage_hint(storage))
    if configuration.notice and not quiet:
        print(f"note: {configuration.notice}", file=sys.stderr)
    return f"study {found.study_name!r}, trial {chosen.number}", Exported(configuration.run, provenance)


def _header(given: str, run: RunConfig, provenance: Mapping[str, Any]) -> str:
    """What is trained, in one line."""
    from_file = "study" in provenance and not given.startswith("study ")
    source = f" (study {provenance['study']}, trial {provenance.get('trial')})" if from_file else ""
    what = f"{run.model.name} on {run.data.name}, {quantity(run.train.epochs, 'epoch')}, seed {run.train.seed}"
    return f"{given}{source}: {what}"


def _scores(estimate: Estimate, task: TaskConfig) -> str:
    if task.metric == "loss":
        return f"loss {fixed(estimate.loss)[0]} (n = {estimate.n})"
    if not estimate.shares:
        return f"{task.score} {fixed(estimate.accuracy)[0]}, loss {fixed(estimate.loss)[0]} (n = {estimate.n})"
    accuracy = f"{estimate.accuracy:.4f} +- {_error(estimate.accuracy, estimate.n):.4f}"
    return f"accuracy {accuracy} (standard error; n = {estimate.n}), loss {fixed(estimate.loss)[0]}"


def _error(accuracy: float, n: int) -> float:
    """The standard error of an accuracy, by Agresti and Coull: the plain one would be 0 for an accuracy of 1."""
    centre = (accuracy * n + 2) / (n + 4)
    return math.sqrt(centre * (1 - centre) / (n + 4))


def _plain(done: Retrained, output: Path | None) -> dict[str, Any]:
    """The result for other programs."""
    from dropopt.study.store.queries import metric_word

    found: dict[str, Any] = {"best_epoch": done.result.best_epoch, "epochs": len(done.result.history)}
    task = done.run.task
    found["metric"] = task.score
    for name, estimate in (("validation", done.validation), ("test", done.test)):
        values = {} if task.metric == "loss" else {metric_word(task.score): estimate.accuracy}
        values |= {"loss": estimate.loss, "n": estimate.n}
        error = _error(estimate.accuracy, estimate.n) if estimate.shares else None
        found[name] = values | {"standard_error": error}
    return found | {"output": str(output) if output is not None else None}
