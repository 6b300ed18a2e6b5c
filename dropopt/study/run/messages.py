"""Messages between the worker and its trainers: one dataclass per kind, one JSON object per line.

The worker sends :class:`Prepare`, :class:`Train` and :class:`Stop`; a trainer sends :class:`Ready`, :class:`Report`,
:class:`Done`, :class:`Stopped` and :class:`Failed`. The field ``kind`` identifies the class. Messages are checked when
they are read: every field without a default must be present, each value must have the type of its field, and no other
field is allowed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError

from dropopt.config import RunConfig
from dropopt.facts import Facts

#: A path. Its bytes are sent as characters of the same numbers, because they need not be text.
PathText = Annotated[
    str,
    PlainSerializer(lambda path: os.fsencode(path).decode("latin-1")),
    AfterValidator(lambda sent: os.fsdecode(sent.encode("latin-1"))),
]
#: A byte of a file's name that is not text, as Python keeps it in strings. JSON readers refuse it.
_NO_TEXT = re.compile("[\ud800-\udfff]")


class MessageError(ValueError):
    """A line is not a valid message; the error names the field that is wrong."""


class _Message:
    """Makes pydantic check the fields of a message without converting their types."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class Prepare(_Message):
    """Load the data of ``run`` and check that its network can be trained on them."""

    run: RunConfig
    kind: Literal["prepare"] = "prepare"


@dataclass(frozen=True)
class Train(_Message):
    """Train the configuration of a trial, or continue it from its checkpoint."""

    trial: int
    run: RunConfig
    #: The absolute path of the checkpoint, which may not exist yet; None to train without one.
    checkpoint: PathText | None = None
    #: The absolute path for the weights of the best epoch; None to write none.
    weights: PathText | None = None
    kind: Literal["train"] = "train"


@dataclass(frozen=True)
class Stop(_Message):
    """Stop a trial after its current step; ignored if another trial is running."""

    trial: int
    kind: Literal["stop"] = "stop"


@dataclass(frozen=True)
class Ready(_Message):
    """The data are loaded and the trainer can run trials."""

    #: Number of classes.
    classes: int
    #: The hash of each split of the data.
    fingerprint: dict[str, str]
    #: Notices about the data for the user, one sentence each.
    notices: list[str]
    #: The names of the network's modules that each named selector of ``sites`` selects.
    sites: dict[str, list[str]] = field(default_factory=dict)
    #: D_complexity of the training images; None if the engine does not use it.
    complexity: float | None = None
    #: The sizes of the data and of the network; None if they are not known.
    facts: Facts | None = None
    #: The hash of each module of the user that the trainer has imported.
    code: dict[str, str] = field(default_factory=dict)
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True)
class Report(_Message):
    """A trial has finished an epoch. Losses are in nats and may be NaN or infinite."""

    trial: int
    #: From 1 to ``epochs``.
    epoch: int
    epochs: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    #: The moving average of ``val_loss``.
    smoothed_loss: float
    #: What the study minimizes: the smoothed loss, or what the task is judged by.
    objective: float
    #: The applied drop rate at each place.
    rates: dict[str, float] = field(default_factory=dict)
    #: The efficacy weight of each method.
    weights: dict[str, float] = field(default_factory=dict)
    kind: Literal["report"] = "report"


@dataclass(frozen=True)
class Done(_Message):
    """A trial has finished its last epoch."""

    trial: int
    #: What the study minimizes.
    objective: float
    best_epoch: int
    best_val_loss: float
    best_val_accuracy: float
    #: Duration of training.
    seconds: float
    #: Further scores of the network, by name.
    scores: dict[str, float] = field(default_factory=dict)
    kind: Literal["done"] = "done"


@dataclass(frozen=True)
class Stopped(_Message):
    """A trial has ended because of :class:`Stop`."""

    trial: int
    kind: Literal["stopped"] = "stopped"


@dataclass(frozen=True)
class Failed(_Message):
    """A trial has raised an error; ``trial`` is None if the preparation has raised it."""

    trial: int | None
    #: The name of the error's class.
    error: str
    message: str
    #: File and line.
    where: str
    #: The end of the traceback.
    trace: str
    #: Whether the error means that memory ran out.
    out_of_memory: bool = False
    kind: Literal["failed"] = "failed"


ToTrainer = Prepare | Train | Stop
FromTrainer = Ready | Report | Done | Stopped | Failed

_M = TypeVar("_M")
_TO_TRAINER: TypeAdapter[ToTrainer] = TypeAdapter(Annotated[ToTrainer, Field(discriminator="kind")])
_FROM_TRAINER: TypeAdapter[FromTrainer] = TypeAdapter(Annotated[FromTrainer, Field(discriminator="kind")])
#: Writes messages. An infinite option of a network would become null without the setting.
_ANY: TypeAdapter[ToTrainer | FromTrainer] = TypeAdapter(
    ToTrainer | FromTrainer, config=ConfigDict(ser_json_inf_nan="constants")
)


def encode(message: ToTrainer | FromTrainer) -> str:
    """Return ``message`` as one line of JSON, which ends with a newline.

    Bytes that are not text, as in the name of a file that an error quotes, are written as ``\\udcff``.
    """
    # json writes NaN and Infinity, where pydantic's own writer would write null.
    line = json.dumps(_ANY.dump_python(message, mode="json"), ensure_ascii=False)
    return _NO_TEXT.sub(lambda byte: rf"\\u{ord(byte[0]):x}", line) + "\n"


def decode_to_trainer(line: str) -> ToTrainer:
    """Read and check a message to a trainer; raises :class:`MessageError`."""
    return _decode(_TO_TRAINER, line)


def decode_from_trainer(line: str) -> FromTrainer:
    """Read and check a message from a trainer; raises :class:`MessageError`."""
    return _decode(_FROM_TRAINER, line)


def _decode(adapter: TypeAdapter[_M], line: str) -> _M:
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        kind, *path = map(str, first["loc"] or ("message",))
        field = f", field {'.'.join(path)!r}" if path else ""
        raise MessageError(f"invalid {kind}{field}: {first['msg']}; got {first['input']!r:.200}") from None
