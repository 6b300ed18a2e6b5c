"""A whole run from its settings: data, network, engine, training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dropopt.config import EngineConfig, RunConfig
from dropopt.engine import attach
from dropopt.training.data import load_once
from dropopt.training.dataset import Dataset
from dropopt.training.device import resolve_device
from dropopt.training.fit import OnEpoch, fit
from dropopt.training.models import build_model
from dropopt.training.results import TrainResult

#: Images that the engine is shown when it looks for its places.
EXAMPLES = 2


def prepare(run: RunConfig) -> Dataset:
    """Load the data of ``run`` and try its network and engine on them: what is wrong shows before a trial."""
    data = load_once(run.data)
    model = _network(run, data)
    with attach(model, run.engine, example=data.train.images[:EXAMPLES]):
        return data


def train_run(
    run: RunConfig, on_epoch: OnEpoch | None = None, checkpoint: Path | None = None
) -> tuple[TrainResult, nn.Module, Dataset]:
    """Load, build, attach and fit as ``run`` says; the model comes back without its engine.

    See :func:`dropopt.training.fit` for ``on_epoch`` and ``checkpoint``. The data set of the last run is kept in
    memory, so a process that trains one run after the other on it loads it once.
    """
    device = resolve_device(run.train.device)
    data = load_once(run.data)
    model = _network(run, data).to(device)
    if run.train.channels_last:
        model.to(memory_format=torch.channels_last)
    example = data.train.images[:EXAMPLES].to(device)
    # Baselines do not read it, and it costs a second where it is not in the cache.
    complexity = data.complexity if isinstance(run.engine, EngineConfig) else 0.5
    with attach(model, run.engine, example=example, complexity=complexity) as engine:
        result = fit(model, engine, data, run.train, on_epoch, checkpoint=checkpoint)
    return result, model, data


def _network(run: RunConfig, data: Dataset) -> nn.Module:
    return build_model(
        run.model,
        channels=data.channels,
        classes=len(data.classes),
        image_size=data.image_size,
        seed=run.train.seed,
    )
