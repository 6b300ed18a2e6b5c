"""Engine: the interface that the paper's dropout engine and the baselines share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, SupportsFloat

import torch
from torch import Tensor

from dropopt.config import Config
from dropopt.inputs import Inputs


class Engine(Protocol):
    """What a training loop may call on the result of :func:`dropopt.attach`.

    :class:`~dropopt.engine.engine.DropoutEngine` describes each method; in a baseline, methods that have no
    meaning for it do nothing.
    """

    @property
    def config(self) -> Config:
        """The settings that the engine was attached with."""

    @property
    def update_every(self) -> int | None:
        """Number of optimizer steps between refreshes within an epoch; None to refresh only at the end of an epoch."""

    @property
    def needs_probe(self) -> bool:
        """Whether :meth:`probe` has to be called before each :meth:`step`."""

    def step(
        self,
        *,
        epoch: float,
        epochs: int,
        val_loss: SupportsFloat | None = None,
        train_loss: SupportsFloat | None = None,
        val_accuracy: SupportsFloat | None = None,
    ) -> None:
        """Recompute the drop rates from the progress of training and its metrics."""

    def probe(self, images: Inputs, labels: Tensor) -> None:
        """Score the features on a labelled batch, if :attr:`needs_probe` is true."""

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply Drop(p) to the updates of ``optimizer``, if the configuration says so."""

    def rates(self) -> list[dict[str, Any]]:
        """Return one row per site with the current drop rates."""

    def summary(self) -> str:
        """Return the places and their current rates as text."""

    def weights(self) -> dict[str, float]:
        """Return the current efficacy weights of eq. (15); empty for a baseline."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that :meth:`load_state_dict` needs to continue bit for bit."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``, random state included."""

    def detach(self) -> None:
        """Remove every hook, which leaves the model as it was."""
