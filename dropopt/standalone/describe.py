"""The card of a network that has just been trained."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch
from torch import nn

from dropopt.config import RunConfig
from dropopt.provenance import provenance as made_with
from dropopt.standalone.card import Calibration, Card, Inputs, Score
from dropopt.standalone.model import StandaloneModel
from dropopt.standalone.sampling import Dropper
from dropopt.training.calibration import calibration_error, temperature_of
from dropopt.training.data.dataset import Dataset
from dropopt.training.evaluate import batches_of_outputs
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


def _calibration(network: nn.Module, data: Dataset, run: RunConfig, result: TrainResult, card: Card) -> Calibration:
    """Fit the temperature on the validation split, and measure calibration errors on both splits."""
    network.eval()
    logits = {
        name: torch.cat([one.float().cpu() for one in batches_of_outputs(network, split.images, run.train)])
        for name, split in (("validation", data.validation), ("test", data.test))
    }
    labels = {"validation": data.validation.labels, "test": data.test.labels}
    temperature = temperature_of(logits["validation"], labels["validation"])
    found = Calibration(
        temperature=temperature,
        ece={name: calibration_error(torch.softmax(z / temperature, 1), labels[name]) for name, z in logits.items()},
        ece_raw={name: calibration_error(torch.softmax(z, 1), labels[name]) for name, z in logits.items()},
    )
    dropper = Dropper.of(network, run, result.rates, (card.inputs.channels, card.inputs.height, card.inputs.width))
    if not dropper.drops:
        return found
    model = StandaloneModel(network, card.model_copy(update={"calibration": found}), dropper)
    sampled = calibration_error(model.sample(data.validation.images, SAMPLES).mean, labels["validation"])
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
