"""Training: data sets as tensors, networks by name, and the loop that trains one; knows the engine, not the study."""

from __future__ import annotations

from dropopt.training.data.dataset import Dataset
from dropopt.training.data.load import load_data, load_once
from dropopt.training.data.split import Split
from dropopt.training.evaluate import evaluate
from dropopt.training.fit import fit
from dropopt.training.networks.models import build_model
from dropopt.training.results import DivergedError, EpochReport, TrainResult
from dropopt.training.run import prepare, train_run

__all__ = [
    "Dataset",
    "DivergedError",
    "EpochReport",
    "Split",
    "TrainResult",
    "build_model",
    "evaluate",
    "fit",
    "load_data",
    "load_once",
    "prepare",
    "train_run",
]
