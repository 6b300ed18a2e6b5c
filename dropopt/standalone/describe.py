"""The card of a network that has just been trained."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from torch import Tensor, nn

from dropopt.config import ConfigError, RunConfig
from dropopt.inputs import parts
from dropopt.provenance import provenance as made_with
from dropopt.standalone.card import Calibration, Card, Inputs, Score
from dropopt.standalone.model import StandaloneModel
from dropopt.standalone.sampling import Dropper
from dropopt.training.calibration import calibration_error, temperature_of
from dropopt.training.data.dataset import Dataset
from dropopt.training.evaluate import logits_of
from dropopt.training.results import TrainResult
from dropopt.trust import sources

#: Number of dropout masks with which the calibration of samples is measured.
SAMPLES = 10

#: What the providers of the built-in data sets say about their use.
_DATA_LICENCES = {
    "digits": "CC BY 4.0 (UCI Machine Learning Repository: optical recognition of handwritten digits)",
    "mnist": "CC BY-SA 3.0 (Y. LeCun and C. Cortes)",
    "fashion-mnist": "MIT (Zalando SE)",
    "kmnist": "CC BY-SA 4.0 (ROIS-DS Center for Open Data in the Humanities)",
    "cifar10": "none stated by its authors",
    "cifar100": "none stated by its authors",
    "svhn": "non-commercial use only (Stanford University)",
}


def describe(
    network: nn.Module,
    data: Dataset,
    run: RunConfig,
    result: TrainResult,
    *,
    scores: Mapping[str, Score],
    provenance: Mapping[str, Any],
) -> Card:
    """The card of ``network``, which holds the weights of its best epoch. Measures its calibration.

    Args:
        network: The network, without an engine.
        data: Its data.
        run: Its configuration.
        result: The result of its training.
        scores: Accuracy and loss by split.
        provenance: Where the configuration comes from.
    """
    refuse_other_samples(data)
    height, width = data.image_size
    inputs = Inputs(
        channels=data.channels, height=height, width=width, mean=data.mean, std=data.std, pixels=data.pixels
    )
    name = (run.model.name,)
    card = Card(
        classes=data.classes,
        inputs=inputs,
        run=run,
        data={
            "name": data.name,
            "images": {split: len(found) for split, found in data.splits().items()},
            "sha256": dict(data.fingerprint),
            "notices": data.notices,
        },
        metrics=dict(scores),
        best_epoch=result.best_epoch,
        licences=_licences(run),
        provenance={key: value for key, value in provenance.items() if key not in ("code", "efficacy")},
        made_with=made_with(),
        code={module: source.plain() for module, source in sources(name).items()},
    )
    return card.model_copy(update={"calibration": _calibration(network, data, run, result, card)})


def refuse_other_samples(data: Dataset) -> None:
    """Check that samples are single images (C, H, W) of a class each.

    Raises:
        ConfigError: They are something else, which a model file cannot describe.
    """
    images = data.train.head(1).images
    if not isinstance(images, Tensor) or images.ndim != 4:
        given = [tuple(part.shape[1:]) for part in parts(images).values()]
        raise ConfigError(
            f"a model file is for images (C, H, W), and a sample has {' and '.join(map(str, given))}; write the "
            "weights alone, with -o model.pt"
        )
    if not data.classes:
        raise ConfigError(
            f"a model file is for images of a class each, and {data.name} has other targets; write the weights alone, "
            "with -o model.pt"
        )


def _calibration(network: nn.Module, data: Dataset, run: RunConfig, result: TrainResult, card: Card) -> Calibration:
    """Fit the temperature on the validation split, and measure calibration errors on both splits."""
    network.eval()
    outputs = {name: logits_of(network, data.splits()[name], run.train) for name in ("validation", "test")}
    temperature = temperature_of(*outputs["validation"])
    found = Calibration(
        temperature=temperature,
        ece={name: calibration_error((z / temperature).softmax(1), labels) for name, (z, labels) in outputs.items()},
        ece_raw={name: calibration_error(z.softmax(1), labels) for name, (z, labels) in outputs.items()},
    )
    dropper = Dropper.of(network, run, result.rates, card.inputs.shape)
    if not dropper.drops:
        return found
    model = StandaloneModel(network, card.model_copy(update={"calibration": found}), dropper)
    # Of a split that is not in memory, some images must do: they are classified with each mask.
    known = data.validation.sample
    if not isinstance(known.images, Tensor):  # refuse_other_samples
        return found
    sampled = calibration_error(model.sample(known.images, SAMPLES).mean, known.labels)
    return found.model_copy(update={"ece_sampled": sampled, "samples": SAMPLES})


def _licences(run: RunConfig) -> dict[str, str]:
    """The licence of the data, as far as it is known, and of the packages that define the network."""
    found = {"data": _DATA_LICENCES.get(run.data.name, "not known to dropopt; ask whoever provides the data")}
    kind = run.model.name.partition(":")[0]
    package = kind if kind in ("torchvision", "timm") else "dropopt"
    if ":" in run.model.name and package == "dropopt":
        found["network"] = "your own code"
    for name in dict.fromkeys((package, "dropopt")):
        found[name] = _licence_of(name)
    if run.model.options.get("weights") or run.model.options.get("pretrained"):
        found["pretrained weights"] = f"see those of {run.model.name}"
    return found


def _licence_of(package: str) -> str:
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
    named = (about[key] for key in ("License-Expression", "License") if key in about)
    text = next((text for text in named if text), "see the package")
    return text.splitlines()[0][:80]
