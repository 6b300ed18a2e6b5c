"""A configuration as a Python program: a short training loop with the engine attached, to run and to change.

``program.py.jinja`` is the program. Images with class numbers of a data set with a name get plain PyTorch (``plain``);
everything else (samples that are read while the network is trained, several inputs, other losses) needs more.
"""

from __future__ import annotations

import math
import pprint
from collections.abc import Mapping
from typing import Any

from dropopt.config import EngineConfig, RunConfig
from dropopt.owncode import is_own
from dropopt.trust import known_file, own_modules

#: The first words of each program, by which an earlier export is recognised; the study's name follows.
MARK = "# dropopt export: "


def python_text(run: RunConfig, provenance: Mapping[str, Any]) -> str:
    """A program that trains with ``run``.

    Args:
        run: The configuration. Settings that have their defaults are left out of the program.
        provenance: Where the configuration comes from: its ``study``, ``trial`` and ``made_with`` go into comments.
    """
    from jinja2 import Environment, PackageLoader  # no other command needs it

    settings = run.model_dump(mode="json", exclude_defaults=True)
    if not isinstance(run.engine, EngineConfig):
        settings["engine"] = run.engine.model_dump(mode="json")
    printed = _Printer(width=110, sort_dicts=False).pformat(settings)
    plain = not is_own(run.data.name) and not run.task.model_dump(exclude_defaults=True).keys() & {"loss", "metric"}
    within = isinstance(run.engine, EngineConfig) and run.engine.update_every != "epoch"
    code = _code(run, provenance)
    environment = Environment(
        loader=PackageLoader("dropopt", "."), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )  # no HTML: nothing is escaped
    return environment.get_template("program.py.jinja").render(
        mark=mark(provenance),
        notes=_notes(run, provenance, plain=plain, found=bool(code)),
        code=code,
        plain=plain,
        within=within,
        settings="\n".join(f"    {line}" for line in printed.splitlines()),
        complexity="data.complexity" if isinstance(run.engine, EngineConfig) else "None",
        steps="len(batches)" if plain else "batches.steps",
        inputs="images" if plain else "inputs",
        targets="labels" if plain else "targets",
        metric=_metric(run.task.score, "val_accuracy" if plain else "metric"),
    )


def _metric(score: str, variable: str) -> str:
    """What the program prints of its metric, besides the loss: nothing if the metric is the loss."""
    name = score if score.isidentifier() else "metric"
    return "" if score == "loss" else f", {name} {{{variable}:.4f}}"


def _code(run: RunConfig, provenance: Mapping[str, Any]) -> str:
    """Lines that say where the functions of the user are imported from; empty if the study does not say."""
    files = {module: known_file(module, provenance.get("code")) for module in own_modules(run.names)}
    if None in files.values():
        return ""
    return "\n".join(f"use_file({module!a}, Path({str(file)!a}))" for module, file in files.items())


def mark_of(study: object) -> str:
    """What the first line of every program of a study begins with. Any text is quoted, so that it stays one line."""
    return f"{MARK}study {study!r}, trial "


def mark(provenance: Mapping[str, Any]) -> str:
    """The first line of the program."""
    return f"{mark_of(provenance.get('study'))}{provenance.get('trial')!r}"


def _notes(run: RunConfig, provenance: Mapping[str, Any], *, plain: bool, found: bool) -> list[str]:
    made_with = provenance.get("made_with")
    versions = made_with.get("versions") if isinstance(made_with, Mapping) else None
    version = versions.get("dropopt") if isinstance(versions, Mapping) else None
    notes = [f"Settings that are not listed have the defaults of dropopt {version!s:.20}."] if version else []
    own = sorted({name for name in run.names if is_own(name)})
    if own and not found:
        notes.append(f"{', '.join(map(ascii, own))} must be importable: put this file beside your script.")
    used = {
        "augment": plain and bool(run.train.augment),
        "amp": run.train.amp != "none",
        "patience": run.train.patience,
    }
    if left := [name for name, value in used.items() if value]:
        notes.append(f"Of the settings of training, this loop leaves out {' and '.join(left)}.")
    return [" ".join(note.split()) for note in notes]


class _Printer(pprint.PrettyPrinter):
    """Prints values that are not finite as Python can read them."""

    def format(self, object: Any, context: dict[int, int], maxlevels: int, level: int) -> tuple[str, bool, bool]:
        if isinstance(object, float) and not math.isfinite(object):
            return f"float({str(object)!r})", True, False
        return super().format(object, context, maxlevels, level)
