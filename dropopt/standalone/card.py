"""Card: what a model file says about its network. It is JSON in the file's metadata, and is checked when it is read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dropopt.config import RunConfig
from dropopt.training.data.pixels import PixelFormat

#: Version of the layout. Increase it when earlier versions of dropopt cannot read the file.
SCHEMA = 1

_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")


class Score(_Part):
    """Accuracy and loss on one split.

    Args:
        accuracy: Share of the images that are classified correctly.
        interval: 95% interval of the accuracy, by Wilson's formula.
        loss: Mean cross-entropy in nats, without the temperature.
        n: Number of images.
    """

    accuracy: _Share
    interval: tuple[_Share, _Share]
    loss: float
    n: _Count

    @classmethod
    def of(cls, accuracy: float, loss: float, n: int) -> Score:
        """The score of ``n`` images, with its interval.

        Example:
            >>> Score.of(1.0, 0.1, 100).interval
            (0.963, 1.0)
        """
        from scipy.stats import binomtest  # slow to import

        interval = binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
        return cls(accuracy=accuracy, interval=(interval.low, interval.high), loss=loss, n=n)


class Calibration(_Part):
    """How confidence relates to accuracy. The temperature is fitted on the validation split only.

    Args:
        temperature: Logits are divided by it.
        ece: Expected calibration error with the temperature, by split.
        ece_raw: The same without the temperature.
        ece_sampled: The same for the mean over ``samples`` dropout masks, on the validation split; None if nothing is
            dropped.
        samples: Number of those masks.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    ece: dict[str, float] = {}
    ece_raw: dict[str, float] = {}
    ece_sampled: float | None = None
    samples: int = 0


class Inputs(_Part):
    """The images that the network takes.

    Args:
        channels: Number of channels.
        height: Height in pixels.
        width: Width in pixels.
        mean: Mean of each channel in the units of ``pixels``; empty if the data were normalised by the user's own code.
        std: Standard deviation of each channel in these units.
        pixels: How the training's source stored its pixels.
    """

    channels: _Count
    height: _Count
    width: _Count
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    pixels: PixelFormat = PixelFormat()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.channels, self.height, self.width


class Card(_Part):
    """What a model file says about its network.

    Args:
        schema_version: Version of this layout.
        classes: Names of the classes, in the order of the logits.
        inputs: The images that the network takes.
        run: The configuration of the training.
        data: Name of the data set, number and SHA-256 of the images of each split, and notices about them.
        metrics: Scores of the best epoch, by split.
        best_epoch: That epoch.
        calibration: Temperature and calibration errors.
        licences: Licences of the data, as far as dropopt knows it, and of the packages that define the network.
        provenance: Where the configuration comes from, as in an exported file.
        made_with: Versions, machine, git state and time of the training.
        code: The file and the hash of the user's own code, by module.
    """

    schema_version: Annotated[int, Field(ge=1)] = SCHEMA
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    inputs: Inputs
    run: RunConfig
    data: dict[str, Any] = {}
    metrics: dict[str, Score] = {}
    best_epoch: int = 0
    calibration: Calibration = Calibration()
    licences: dict[str, str] = {}
    provenance: dict[str, Any] = {}
    made_with: dict[str, Any] = {}
    code: dict[str, Any] = {}

    def lines(self) -> list[str]:
        """The card as text, one fact per line."""
        shape = " x ".join(map(str, self.inputs.shape))
        found = [
            f"network      {self.run.model.name}, images {shape}",
            f"classes      {len(self.classes)}: {', '.join(self.classes)}",
            f"data         {self.data.get('name', 'unknown')}",
        ]
        for name, digest in dict(self.data.get("sha256") or {}).items():
            found.append(f"  {name:<10} {dict(self.data.get('images') or {}).get(name)} images, sha256 {digest}")
        found += [f"  note       {notice}" for notice in self.data.get("notices") or ()]
        for name, score in self.metrics.items():
            low, high = score.interval
            interval = f"95% interval {low:.4f} to {high:.4f}"
            found.append(f"{name:<12} accuracy {score.accuracy:.4f}, {interval}, loss {score.loss:.4f}, n = {score.n}")
        errors = ", ".join(f"{name} {value:.4f}" for name, value in self.calibration.ece.items())
        found.append(
            f"calibration  temperature {self.calibration.temperature:.3f}; calibration error {errors or 'unknown'}"
        )
        found += [f"licence      {name}: {text}" for name, text in self.licences.items()]
        versions = self.made_with.get("versions") or {}
        found.append(f"made with    {', '.join(f'{name} {version}' for name, version in dict(versions).items())}")
        return [" ".join(line.splitlines()) for line in found]
