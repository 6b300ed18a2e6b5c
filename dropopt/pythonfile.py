"""A configuration as a Python program: a short training loop with the engine attached, to run and to change."""

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

#: The lines with which every program begins. Names in braces are filled in.
_HEAD = """\
{mark}
# A training loop with the best dropout of this study. Run it as it is, or replace the data and the model by yours.
{notes}{imports}
run = dropopt.RunConfig.parse(
{settings}
)
torch.manual_seed(run.train.seed)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
data = load_data(run.data)
"""

#: The lines with which every program attaches the engine, and with which it ends.
_ATTACH = """
with dropopt.attach(model, run.engine, example=example, complexity={complexity}, inside="keep") as engine:
    engine.watch(optimizer)
    for epoch in range(run.train.epochs):
        total, count = 0.0, 0
        model.train()
"""
_STEP = """\
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + loss.item() * len({targets}), count + len({targets})
"""
_END = """\
        if engine.needs_probe:
            engine.probe({batch})
        engine.step(epoch=epoch + 1, epochs=run.train.epochs, train_loss=total / count, **scores)
        print(f"epoch {{epoch + 1}} of {{run.train.epochs}}: loss {{val_loss:.4f}}{metric}")

# model.eval() and torch.save(model.state_dict(), "model.pt") as usual: detached, the model is as it was.
"""

#: Images and class numbers of a data set with a name: plain PyTorch.
_PLAIN_IMPORTS = """\
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import dropopt
from dropopt.training import build_model, evaluate, load_data
from dropopt.training.optim import learning_rate, make_optimizer
"""
_PLAIN_DATA = """\
shape = {"channels": data.channels, "classes": len(data.classes), "image_size": data.image_size}
model = build_model(run.model, **shape, seed=run.train.seed).to(device)
optimizer = make_optimizer(model, run.train)
train = TensorDataset(data.train.images.to(device), data.train.labels.to(device))
batches = DataLoader(train, run.train.batch_size, shuffle=True, drop_last=len(train) % run.train.batch_size == 1)
example = train.tensors[0][:2]
"""
_PLAIN_STEP = """\
        for step, (images, labels) in enumerate(batches):
            progress = (epoch + step / len(batches)) / run.train.epochs
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(run.train, progress) * group["lr_scale"]
            loss = F.cross_entropy(model(images), labels, label_smoothing=run.train.label_smoothing)
"""
_PLAIN_SCORES = """\
        val_loss, val_accuracy = evaluate(model, data.validation, run.train)
        scores = {"val_loss": val_loss, "val_accuracy": val_accuracy}
"""

#: Everything else: samples that are read while the network is trained, several inputs, other losses and metrics.
_ANY_IMPORTS = """\
import torch

import dropopt
from dropopt.inputs import each, run_model
from dropopt.training import build_model, evaluate, load_data
from dropopt.training.feed import feed_of
from dropopt.training.optim import learning_rate, make_optimizer
from dropopt.training.task import task_of
"""
_ANY_DATA = """\
task = task_of(run.task)  # the loss and the metric
example = data.train.head(2).images
shape = {"channels": data.channels, "classes": task.outputs(data), "image_size": data.image_size}
logits = task.needs_logits(data)
model = build_model(run.model, **shape, seed=run.train.seed, logits=logits, example=example).to(device)
optimizer = make_optimizer(model, run.train)
batches = feed_of(data.train, run.train, device)  # of any data set, also one that is read anew in each epoch
example = each(lambda part: part.to(device), example)
"""
_ANY_STEP = """\
        for step, (inputs, targets) in enumerate(batches.epoch(epoch + 1)):
            progress = (epoch + min(step / batches.steps, 1)) / run.train.epochs
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(run.train, progress) * group["lr_scale"]
            loss = task.training_loss(run_model(model, inputs), targets, run.train.label_smoothing)
"""
_ANY_SCORES = """\
        val_loss, metric = evaluate(model, data.validation, run.train, task)
        scores = {"val_loss": val_loss, "val_accuracy": task.performance(metric)}
"""

_WITHIN = """\
            done = epoch * {steps} + step + 1
            if done % engine.update_every == 0 and step + 1 < {steps}:
                if engine.needs_probe:
                    engine.probe({batch})
                engine.step(epoch=done / {steps}, epochs=run.train.epochs)
"""


def python_text(run: RunConfig, provenance: Mapping[str, Any]) -> str:
    """A program that trains with ``run``.

    Args:
        run: The configuration. Settings that have their defaults are left out of the program.
        provenance: Where the configuration comes from: its ``study``, ``trial`` and ``made_with`` go into comments.
    """
    settings = run.model_dump(mode="json", exclude_defaults=True)
    if not isinstance(run.engine, EngineConfig):
        settings["engine"] = run.engine.model_dump(mode="json")
    printed = _Printer(width=110, sort_dicts=False).pformat(settings)
    plain = not is_own(run.data.name) and not run.task.model_dump(exclude_defaults=True).keys() & {"loss", "metric"}
    within = isinstance(run.engine, EngineConfig) and run.engine.update_every != "epoch"
    code = _code(run, provenance)
    imports = _PLAIN_IMPORTS if plain else _ANY_IMPORTS
    if code:  # in the order of a linter: the standard library first
        imports = "from pathlib import Path\n\n" + imports
        place = imports.index("from dropopt.training import build_model")
        imports = f"{imports[:place]}from dropopt.owncode import use_file\n{imports[place:]}\n{code}"
    parts = [
        _HEAD.replace("{imports}", imports),
        _quoted(_PLAIN_DATA if plain else _ANY_DATA),
        _ATTACH,
        _quoted(_PLAIN_STEP if plain else _ANY_STEP),
        _STEP,
        _WITHIN if within else "",
        _quoted(_PLAIN_SCORES if plain else _ANY_SCORES),
        _END,
    ]
    return "".join(parts).format(
        mark=mark(provenance),
        notes="".join(f"# {note}\n" for note in _notes(run, provenance, plain=plain, found=bool(code))),
        settings="\n".join(f"    {line}" for line in printed.splitlines()),
        complexity="data.complexity" if isinstance(run.engine, EngineConfig) else "None",
        steps="len(batches)" if plain else "batches.steps",
        batch="images, labels" if plain else "inputs, targets",
        targets="labels" if plain else "targets",
        metric=_metric(run.task.score, "val_accuracy" if plain else "metric"),
    )


def _metric(score: str, variable: str) -> str:
    """What the program prints of its metric, besides the loss: nothing if the metric is the loss."""
    name = score if score.isidentifier() else "metric"
    return "" if score == "loss" else f", {name} {{{variable}:.4f}}"


def _quoted(text: str) -> str:
    """A part without names to fill in, whose braces are those of the program."""
    return text.replace("{", "{{").replace("}", "}}")


def _code(run: RunConfig, provenance: Mapping[str, Any]) -> str:
    """Lines that say where the functions of the user are imported from; empty if the study does not say."""
    files = {module: known_file(module, provenance.get("code")) for module in own_modules(run.names)}
    if None in files.values():
        return ""
    return _quoted("".join(f"use_file({module!a}, Path({str(file)!a}))\n" for module, file in files.items()))


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
