"""load_model: from a model file to a network that predicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from dropopt.config import ConfigError, ModelConfig
from dropopt.standalone.file import ModelFile, read_model
from dropopt.standalone.model import StandaloneModel
from dropopt.standalone.sampling import Dropper
from dropopt.training.device import resolve_device
from dropopt.training.networks.build_model import build_model
from dropopt.training.networks.untrained import untrained
from dropopt.trust import Ask, settle


def load_model(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    code: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    trust: bool = False,
    ask: Ask | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> StandaloneModel:
    """Load a model that ``dropopt train -o model.safetensors`` has written.

    Args:
        path: The file. Reading it runs no code.
        device: Where to compute: ``auto`` (CUDA if available), ``cpu``, ``cuda`` or ``cuda:1``.
        code: The script, or a folder of modules, that defines the network, if it is a function of your own. Without it,
            the file that the training used is imported only if you have run it as a study and it has not changed.
        trust: Whether to import the network's function without these conditions.
        ask: Asks the user whether to import a file; None to refuse instead.
        on_notice: Called with a line for each file that is imported.

    Returns:
        The model, in eval mode on ``device``: ``model.predict(["image.jpg"])``.

    Raises:
        ConfigError: The file is not a model file, its network cannot be built, or its code may not be imported.

    Example:
        >>> import tempfile
        >>> from dropopt.config import RunConfig
        >>> from dropopt.standalone.card import Card, Inputs
        >>> from dropopt.standalone.file import write_model
        >>> inputs = Inputs(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
        >>> card = Card(classes=("cat", "dog"), inputs=inputs, run=RunConfig())
        >>> network = build_model(card.run.model, channels=1, classes=2, image_size=8, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:  # dropopt train -o model.safetensors writes such a file
        ...     path = Path(folder, "model.safetensors")
        ...     write_model(path, card, network.state_dict(), rates={})
        ...     model = load_model(path, device="cpu")
        >>> [one.label in ("cat", "dog") for one in model.predict(torch.zeros(2, 1, 8, 8))]
        [True, True]
    """
    path = Path(path)
    file = read_model(path)
    places = [code] if isinstance(code, str | os.PathLike) else list(code)
    lines = settle(
        (file.card.run.model.name,),
        file.card.code,
        given=str(path),
        code=[Path(place) for place in places],
        trust=trust,
        ask=ask,
    )
    if on_notice is not None:
        for line in lines:
            on_notice(line)
    where = resolve_device(device)
    network = _network(path, file).to(where)
    if file.card.run.train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    try:
        dropper = Dropper.of(network, file.card.run, file.rates, file.card.inputs.shape)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return StandaloneModel(network, file.card, dropper)


def _network(path: Path, file: ModelFile) -> nn.Module:
    """Build the network of ``file`` and load its weights."""
    card = file.card
    model = ModelConfig(name=card.run.model.name, options=untrained(card.run.model))
    size = (card.inputs.height, card.inputs.width)
    try:
        network = build_model(model, channels=card.inputs.channels, classes=len(card.classes), image_size=size, seed=0)
        network.load_state_dict(file.weights)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (RuntimeError, MemoryError, TypeError, ValueError) as error:  # sizes that fit neither memory nor the weights
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise ConfigError(f"{path}: its weights do not fit the network {model.name}: {' '.join(lines)[:300]}") from None
    return network.eval()
