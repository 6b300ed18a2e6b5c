"""StandaloneModel: a trained network that prepares images and predicts their classes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropopt.config import ConfigError
from dropopt.randomness import global_stream
from dropopt.standalone.card import Card
from dropopt.standalone.images import from_array, from_files, image_files
from dropopt.standalone.sampling import Dropper, Sampled, entropy_of
from dropopt.training.data.progress import tracked
from dropopt.training.evaluate import batches_of_outputs, device_of

#: Image files that are read and classified at a time.
FILES_AT_ONCE = 256
#: Images with less contrast, as a share of that of the training's images, are empty, or too dark or too bright.
LEAST_CONTRAST = 0.1


@dataclass(frozen=True)
class Prediction:
    """The class of an image.

    Args:
        image: The file, or the number of the image in an array.
        label: Name of the most probable class.
        probability: Its probability, with the temperature of the card.
        probabilities: Probability of each class, by name.
        entropy: Entropy of the probabilities, in nats.
        mutual_information: The part of the entropy that comes from disagreement between dropout masks, in nats; None
            without samples.
        note: Why the class means little: the image has hardly any contrast, or values that are not finite. Empty for
            other images.
    """

    image: str
    label: str
    probability: float
    probabilities: dict[str, float]
    entropy: float
    mutual_information: float | None = None
    note: str = ""


class StandaloneModel(nn.Module):
    """A trained network with its classes, its preprocessing and its drop rates.

    :func:`dropopt.load_model` returns one. As a module, it maps prepared images (N, C, H, W) to logits.

    Args:
        network: The network, in eval mode.
        card: What is known about it.
        dropper: Where and how it drops features, for Monte Carlo dropout.

    Attributes:
        network: The network.
        card: What is known about it.
        classes: Names of the classes.
    """

    def __init__(self, network: nn.Module, card: Card, dropper: Dropper) -> None:
        super().__init__()
        self.network = network.eval()
        self.card = card
        self._dropper = dropper
        self.training = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.card.classes

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of prepared images (N, C, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def prepare(self, images: Any) -> Tensor:
        """Prepare images as the training prepared its own.

        Args:
            images: A tensor or an array (N, C, H, W), or (N, H, W) for one channel, in the units of the training's
                source; or paths of image files.

        Returns:
            (N, C, H, W), resized and normalised.

        Raises:
            ConfigError: The images cannot be prepared.
        """
        if isinstance(images, Tensor) or hasattr(images, "__array__"):
            return from_array(images, self.card.inputs)
        return from_files([Path(path) for path in images], self.card.inputs)[1]

    def logits(self, prepared: Tensor) -> Tensor:
        """Logits (N, classes) in float32, in the precision and the batches of the training's validation."""
        batches = batches_of_outputs(self.network, prepared, self.card.run.train)
        return torch.cat([logits.float().cpu() for logits in batches])

    def sample(self, prepared: Tensor, samples: int, seed: int = 0) -> Sampled:
        """Class probabilities under ``samples`` dropout masks, which are a function of ``seed``.

        Raises:
            ConfigError: ``samples`` is below 1, or nothing is dropped in this network.
        """
        if samples < 1:
            raise ConfigError(f"samples must be 1 or more, got {samples}")
        draws = []
        device = device_of(self.network, self.card.run.train)
        with self._dropper.dropping(), global_stream(seed, "prediction", device=device):
            for _ in range(samples):
                draws.append(self._probabilities(self.logits(prepared)))
        return Sampled.of(draws)

    def predict(self, images: Any, *, samples: int = 0, seed: int = 0) -> list[Prediction]:
        """Predict the class of each image.

        Args:
            images: Paths of image files and folders, or one such path; or a tensor or an array (N, C, H, W) in the
                units of the training's source.
            samples: Number of dropout masks, for Monte Carlo dropout; 0 to predict without dropout.
            seed: Seed of the masks.

        Returns:
            One prediction for each image, in the order of the images.

        Raises:
            ConfigError: An image cannot be read or prepared, or nothing is dropped in this network.

        Example:
            See :func:`dropopt.load_model`.
        """
        return list(self.predictions(images, samples=samples, seed=seed))

    def predictions(
        self,
        images: Any,
        *,
        samples: int = 0,
        seed: int = 0,
        on_unreadable: Callable[[Path, ConfigError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Yield what :meth:`predict` returns; of image files, only some are in memory at a time.

        Args:
            images: As for :meth:`predict`.
            samples: As for :meth:`predict`.
            seed: As for :meth:`predict`.
            on_unreadable: Called with each image file that cannot be read or prepared, and the reason. These files have
                no prediction. By default such a file is an error.

        Yields:
            One prediction for each image, in the order of the images.

        Raises:
            ConfigError: As for :meth:`predict`.
        """
        if samples < 0:
            raise ConfigError(f"samples must be 0 or more, got {samples}")
        if isinstance(images, Tensor) or hasattr(images, "__array__"):
            prepared = self.prepare(images)
            yield from self._predicted([str(number) for number in range(len(prepared))], prepared, samples, seed)
            return
        paths = image_files([images] if isinstance(images, str | os.PathLike) else images)
        starts = range(0, len(paths), FILES_AT_ONCE)
        for start in tracked(starts, len(starts), "classifying images"):
            some = paths[start : start + FILES_AT_ONCE]
            read, prepared = from_files(some, self.card.inputs, on_unreadable)
            if read:
                yield from self._predicted([str(path) for path in read], prepared, samples, seed)

    def _predicted(self, names: Sequence[str], prepared: Tensor, samples: int, seed: int) -> Iterator[Prediction]:
        information: list[float] | list[None]
        if samples:
            sampled = self.sample(prepared, samples, seed)
            probabilities, entropy, information = sampled.mean, sampled.entropy, sampled.information.tolist()
        else:
            probabilities = self._probabilities(self.logits(prepared))
            entropy, information = entropy_of(probabilities), [None] * len(names)
        notes = _notes(prepared) if self.card.inputs.mean else [""] * len(names)
        rows = zip(names, probabilities.tolist(), entropy.tolist(), information, notes, strict=True)
        for name, shares, spread, shared, note in rows:
            best = max(range(len(shares)), key=shares.__getitem__)
            by_class = dict(zip(self.classes, shares, strict=True))
            yield Prediction(name, self.classes[best], shares[best], by_class, spread, shared, note)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits.double() / self.card.calibration.temperature, 1)


def _notes(prepared: Tensor) -> list[str]:
    """What to say about each image (C, H, W): nothing, or that it is nearly empty or not finite."""
    contrasts = prepared.flatten(2).std(2, correction=0).mean(1).tolist()
    return [_note(contrast) for contrast in contrasts]


def _note(contrast: float) -> str:
    if not math.isfinite(contrast):
        return "values that are not finite: the class means nothing"
    if contrast < LEAST_CONTRAST:
        return f"hardly any contrast ({contrast:.2g} of the training's): the class means little"
    return ""
