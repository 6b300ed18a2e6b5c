"""A study in a plain Optuna script: a search space of dropopt, its sampler and pruner, and a training loop of your own.

    python studies/with_optuna/plain_optuna.py

The study is stored in runs/plain_optuna.db, so these work as well:

    dropopt efficacy --storage runs/plain_optuna.db
    dropopt export --storage runs/plain_optuna.db -o best.yaml
    dropopt dashboard --storage runs/plain_optuna.db

Time on two cores: about a minute. It uses one process; the studies that `dropopt run` starts use all cores.
"""

from __future__ import annotations

from pathlib import Path

import optuna
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

import dropopt
from dropopt.study import EfficacySampler, ForecastPruner, Space

EPOCHS = 10
BATCH = 128
SPACE = Space.load("compact")  # or the path of a file of your own; see search_spaces/


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, validation images and labels."""
    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    labels = torch.tensor(classes)
    train, validation = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    return images[train], labels[train], images[validation], labels[validation]


def network() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)),
    )


class Objective:
    """Trains one network per trial and returns its validation loss."""

    def __init__(self, epochs: int = EPOCHS) -> None:
        self.epochs = epochs
        self.images, self.labels, self.val_images, self.val_labels = data()
        self.complexity = dropopt.training.measure_complexity(self.images, self.labels)
        # Places that the network does not have, such as hidden linear layers, are not searched.
        self.space = SPACE.offered(dropopt.engine.named_places(network(), self.images[:2]))

    def __call__(self, trial: optuna.Trial) -> float:
        """Train with the configuration that the trial suggests."""
        run = self.space.suggest(trial, classes=10)
        trial.set_user_attr("config", run.model_dump(mode="json"))  # for dropopt export
        torch.manual_seed(trial.number)
        model = network()
        optimizer = torch.optim.SGD(
            model.parameters(), lr=run.train.lr, weight_decay=run.train.weight_decay, momentum=0.9, nesterov=True
        )
        val_loss = float("nan")
        with dropopt.attach(model, run.engine, example=self.images[:2], complexity=self.complexity) as engine:
            engine.watch(optimizer)
            for epoch in range(1, self.epochs + 1):
                train_loss, batch = self.train(model, optimizer)
                val_loss, val_accuracy = self.validate(model)
                engine.probe(*batch)
                engine.step(
                    epoch=epoch,
                    epochs=self.epochs,
                    train_loss=train_loss,
                    val_loss=val_loss,
                    val_accuracy=val_accuracy,
                )
                trial.report(val_loss, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return val_loss

    def train(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[float, tuple[Tensor, Tensor]]:
        """Train for one epoch; return the mean loss and the last batch."""
        model.train()
        total = 0.0
        batches = torch.split(torch.randperm(len(self.labels)), BATCH)
        for index in batches:
            loss = F.cross_entropy(model(self.images[index]), self.labels[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(index)
        return total / len(self.labels), (self.images[batches[-1]], self.labels[batches[-1]])

    @torch.no_grad()
    def validate(self, model: nn.Module) -> tuple[float, float]:
        """Loss and accuracy on the validation images; the engine drops nothing in eval mode."""
        logits = model.eval()(self.val_images)
        accuracy = (logits.argmax(1) == self.val_labels).float().mean()
        return F.cross_entropy(logits, self.val_labels).item(), accuracy.item()


def main(storage: str = "sqlite:///runs/plain_optuna.db", n_trials: int = 30, epochs: int = EPOCHS) -> optuna.Study:
    """Run the study, or continue it."""
    study = optuna.create_study(
        study_name="plain_optuna",
        storage=storage,
        sampler=EfficacySampler(seed=0),
        pruner=ForecastPruner(),
        load_if_exists=True,
    )
    study.optimize(Objective(epochs), n_trials=n_trials)
    return study


if __name__ == "__main__":
    Path("runs").mkdir(exist_ok=True)
    done = main()
    print(f"best loss {done.best_value:.4f} with {done.best_params}")
