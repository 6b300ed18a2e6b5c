"""``dropopt export``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from dropopt.formats import printable
from dropopt.study.command import options

_SUFFIXES = {"python": "py"}


def export(
    study: options.StudyName = None,
    trial: options.Trial = None,
    format: options.Format = None,
    output: options.ExportOutput = None,
    storage: options.Storage = None,
    force: options.Force = False,
    list_trials: options.ListTrials = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the configuration of a trial to a file.

    The file contains all settings and their provenance.
    """
    from dropopt.config import ConfigError
    from dropopt.export import as_text, kind_of, save
    from dropopt.study.after.export import check_same_study, exported
    from dropopt.study.command.errors import reencode
    from dropopt.study.command.output import json_text
    from dropopt.study.show.console import busy, make_console
    from dropopt.study.show.formatting import format_accuracy
    from dropopt.study.show.trials import rows, table
    from dropopt.study.store.opening import opened_study
    from dropopt.study.store.queries import choose, metric_key, no_result, task_of
    from dropopt.study.store.scale import Scale
    from dropopt.study.store.url import storage_hint

    with opened_study(storage, study) as found:
        if list_trials:
            listed = rows(found)
            if as_json:
                print(json_text(listed))
            else:
                if not listed:
                    raise ConfigError(no_result(found))
                make_console(quiet=quiet).print(table(found.study_name, listed, task_of(found).score, Scale.of(found)))
            return
        chosen = choose(found, trial)
        with busy("analysing the trials", quiet=quiet):
            configuration, provenance = exported(found, chosen, storage_hint(storage))
        scale, score = Scale.of(found), task_of(found).score
    if configuration.notice and not quiet:
        print(f"note: {configuration.notice}", file=sys.stderr)
    to_stdout = output is not None and str(output) == "-"
    default = Path(f"best.{_SUFFIXES.get(format or '', format or 'yaml')}")
    path = default if output is None or to_stdout else output
    kind = kind_of(path, format)
    if to_stdout:
        reencode(encoding="utf-8")  # that of the file, whatever the terminal's
        print(as_text(configuration.run, provenance, kind), end="")
        return
    if not force:
        check_same_study(path, format, found.study_name)
    save(path, configuration.run, provenance, format=format)
    if as_json:
        facts = {"file": str(path), "study": found.study_name, "trial": chosen.number}
        print(json_text(facts | {name: provenance.get(name) for name in ("value", metric_key(score))}, indent=None))
    elif not quiet:
        scores = ""
        if configuration.stored and len(found.directions) == 1 and chosen.value is not None:
            value = f"{scale.name} {scale.text(chosen.value)}"
            scores = f", smoothed {value}, {score} {format_accuracy(chosen)} (validation)"
            if configuration.foreign:
                scores = f", {value}"
        print(printable(f"{path}: study {found.study_name}, trial {chosen.number}{scores}"))
        command = "python" if kind == "python" else "dropopt train"
        if configuration.foreign and kind != "python":
            print(f"use it in your training loop: dropopt.attach(model, dropopt.load({str(path)!r}).engine, ...)")
        else:
            print(f"train with it: {command} {shlex.quote(str(path))}")
