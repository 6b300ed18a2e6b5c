"""Training: data sets as tensors, networks by name, and the loop that trains one. It uses the engine, not the study.

data/        from a setting to a Dataset: readers, splits, normalisation, complexity
networks/    from a setting to a network: reference CNNs, torchvision's, timm's, your own
task         the loss, the metric, and which of them a training is judged by
feed         the batches of each epoch, from memory or from a data set that is read
fit          the training loop, with its optimizer (optim), augmentation (augment), evaluation (evaluate),
             checkpoints (checkpoint) and device (device); results.py holds what it reports and returns
rates        the drop rates of an engine as tensors, to apply them again without the training that led to them
calibration  temperature, and how far confidence and accuracy differ
facts        what the data and the network of a run are, in numbers
pipeline     a complete run from its configuration: data, network, engine, fit
scored       a complete run with further scores of its network, on the validation or the test split
"""

from __future__ import annotations

from dropopt.training.data.complexity import measure_complexity
from dropopt.training.data.dataset import Dataset
from dropopt.training.data.load_data import load_data, load_once
from dropopt.training.data.split import Split
from dropopt.training.evaluate import evaluate
from dropopt.training.fit import fit
from dropopt.training.networks.build_model import build_model
from dropopt.training.pipeline import prepare, train_run
from dropopt.training.results import DivergedError, EpochReport, TrainResult
from dropopt.training.task import Task, task_of

__all__ = [
    "Dataset",
    "DivergedError",
    "EpochReport",
    "Split",
    "Task",
    "TrainResult",
    "build_model",
    "evaluate",
    "fit",
    "load_data",
    "load_once",
    "measure_complexity",
    "prepare",
    "task_of",
    "train_run",
]
