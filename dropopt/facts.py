"""What a study searches on: its data and its network, in numbers that are known before the first trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Facts:
    """The data and the network of a study.

    Args:
        images: Number of images of each split, by the split's name.
        shape: The shape of one image, (C, H, W), or of another input.
        classes: Number of classes; 0 if the targets are not classes.
        largest_share: The share of the largest class among the training images, in (0, 1]: the accuracy of always
            guessing this class. 0 if the targets are not classes.
        parameters: Number of trainable numbers of the network.
        places: Names of the modules at which the engine drops features.
        dropout_inside: Number of dropout layers that the network itself contains.
        dropout_at_places: Number of these at the places of the engine.
        inputs: The shapes of the inputs of one sample by name, if there are several; ``shape`` is that of the first.
        own_batches: Whether a loader decides the training batches, so that ``train.batch_size`` does not apply.
        guess: The accuracy on the validation split of always giving the answer that is the most frequent one in the
            training split; 0 if it is not known, or if the targets have no accuracy.

    Example:
        >>> facts = Facts({"train": 80}, [1, 8, 8], 10, 0.1, 5000, ["conv1"], 0)
        >>> Facts.read(facts.plain()) == facts
        True
    """

    images: dict[str, int]
    shape: list[int]
    classes: int
    largest_share: float
    parameters: int
    places: list[str]
    dropout_inside: int
    dropout_at_places: int = 0
    inputs: dict[str, list[int]] = field(default_factory=dict)
    own_batches: bool = False
    guess: float = 0.0

    def plain(self) -> dict[str, Any]:
        """The facts as values for JSON."""
        return asdict(self)

    @classmethod
    def read(cls, stored: object) -> Facts | None:
        """Facts from values of :meth:`plain`; None if something is missing, as in a study of an older version."""
        if not isinstance(stored, Mapping):
            return None
        found = {one.name: stored[one.name] for one in fields(cls) if one.name in stored}
        required = (one.name for one in fields(cls) if one.default is MISSING and one.default_factory is MISSING)
        return cls(**found) if all(name in found for name in required) else None
