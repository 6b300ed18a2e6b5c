"""A configuration as a Python program: a short training loop with the engine attached, to run and to change."""

from __future__ import annotations

import math
import pprint
from collections.abc import Mapping
from typing import Any

from dropopt.config import EngineConfig, RunConfig
from dropopt.owncode import is_own

#: The first words of each program, by which an earlier export is recognised; the study's name follows.
MARK = "# dropopt export: "

_PROGRAM = """\
{mark}
# A training loop with the best dropout of this study. Run it as it is, or replace the data and the model by yours.
{notes}import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import dropopt
from dropopt.training import build_model, evaluate, load_data
from dropopt.training.optim import learning_rate, make_optimizer

run = dropopt.RunConfig.parse(
{settings}
)
torch.manual_seed(run.train.seed)
device = "cuda" if torch.cuda.is_available() else "cpu"
data = load_data(run.data)
shape = {{"channels": data.channels, "classes": len(data.classes), "image_size": data.image_size}}
model = build_model(run.model, **shape, seed=run.train.seed).to(device)
optimizer = make_optimizer(model, run.train)
train = TensorDataset(data.train.images.to(device), data.train.labels.to(device))
batches = DataLoader(train, run.train.batch_size, shuffle=True, drop_last=len(train) % run.train.batch_size == 1)
example = train.tensors[0][:2]

with dropopt.attach(model, run.engine, example=example, complexity={complexity}) as engine:
    engine.watch(optimizer)
    for epoch in range(run.train.epochs):
        total = 0.0
        model.train()
        for step, (images, labels) in enumerate(batches):
            progress = epoch + step / len(batches)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(run.train, progress / run.train.epochs)
            loss = F.cross_entropy(model(images), labels, label_smoothing=run.train.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
{within}        val_loss, val_accuracy = evaluate(model, data.validation, run.train)
        scores = {{"train_loss": total / len(train), "val_loss": val_loss, "val_accuracy": val_accuracy}}
        if engine.needs_probe:
            engine.probe(images, labels)
        engine.step(epoch=epoch + 1, epochs=run.train.epochs, **scores)
        print(f"epoch {{epoch + 1}} of {{run.train.epochs}}: loss {{val_loss:.4f}}, accuracy {{val_accuracy:.4f}}")

# model.eval() and torch.save(model.state_dict(), "model.pt") as usual: detached, the model is as it was.
"""

_WITHIN = """\
            done = epoch * len(batches) + step + 1
            if done % engine.update_every == 0 and step + 1 < len(batches):
                if engine.needs_probe:
                    engine.probe(images, labels)
                engine.step(epoch=done / len(batches), epochs=run.train.epochs)
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
    inside = isinstance(run.engine, EngineConfig) and run.engine.update_every != "epoch"
    return _PROGRAM.format(
        mark=mark(provenance),
        notes="".join(f"# {note}\n" for note in _notes(run, provenance)),
        settings="\n".join(f"    {line}" for line in printed.splitlines()),
        complexity="data.complexity" if isinstance(run.engine, EngineConfig) else "None",
        within=_WITHIN if inside else "",
    )


def mark(provenance: Mapping[str, Any]) -> str:
    """The first line of the program. Any text in it is quoted, so that it stays one line."""
    return f"{MARK}study {provenance.get('study')!r}, trial {provenance.get('trial')!r}"


def _notes(run: RunConfig, provenance: Mapping[str, Any]) -> list[str]:
    made_with = provenance.get("made_with")
    versions = made_with.get("versions") if isinstance(made_with, Mapping) else None
    version = versions.get("dropopt") if isinstance(versions, Mapping) else None
    notes = [f"Settings that are not listed have the defaults of dropopt {version!s:.20}."] if version else []
    own = sorted({name for name in (run.data.name, run.model.name) if is_own(name)})
    if own:
        notes.append(f"{', '.join(map(ascii, own))} must be importable: run this file in the folder of your script.")
    if run.train.augment or run.train.amp != "none" or run.train.patience:
        notes.append("Of the settings of training, this loop leaves out augment, amp and patience.")
    return [" ".join(note.split()) for note in notes]


class _Printer(pprint.PrettyPrinter):
    """Prints values that are not finite as Python can read them."""

    def format(self, object: Any, context: dict[int, int], maxlevels: int, level: int) -> tuple[str, bool, bool]:
        if isinstance(object, float) and not math.isfinite(object):
            return f"float({str(object)!r})", True, False
        return super().format(object, context, maxlevels, level)
