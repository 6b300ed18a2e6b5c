"""Every setting of dropopt, as frozen pydantic models that check themselves.

One name per idea, everywhere: the fields below are the keys of configuration files, the parameters of
search spaces, the columns of reports and the labels on the dashboard. Symbols are the paper's.

    RunConfig
      data    DataConfig              which images, and how they are split
      model   ModelConfig             which network
      train   TrainConfig             how it is trained
      engine  EngineConfig | Baseline  which dropout
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Reading = Literal["printed", "sound"]
Pattern = Literal["element", "channel", "structured", "spatial", "own"]
Allocation = Literal["uniform", "feature", "importance"]
Importance = Literal["activation", "taylor", "statistical", "gradient", "lrp", "composite"]
Performance = Literal["accuracy", "loss", "ratio"]
Method = Literal["adaptive", "structured", "contextual", "pfid", "spatial"]

#: The members of eq. (15), in the order in which every table and tensor of rates lists them.
METHODS: tuple[Method, ...] = get_args(Method)

#: Thirds of training, over which a blend may change.
STAGES = ("early", "middle", "late")

#: No unit is dropped more often than this: the survivors are scaled by 1 / (1 - p), at most 20-fold.
P_MAX = 0.95

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: An efficacy weight: one number, or one for each of the three stages of training.
Weight = Fraction | tuple[Fraction, Fraction, Fraction]


class ConfigError(ValueError):
    """A setting that cannot be used: the message says what was given and what is allowed."""


class Config(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check ``values`` and build the model; raises :class:`ConfigError` in one line."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, values)) from None


class EngineConfig(Config):
    """The paper's dropout engine: how much (eq. 1-2, 9-11, 13-16), then where.

    The defaults are moderate and safe on a CNN with BatchNorm: whole channels, a rate of about r0.
    """

    # -- eq. (1), (2): adaptive rate, dynamic alpha
    r0: Fraction = Field(0.25, description="base drop rate")
    alpha: Fraction = Field(0.5, description="strength of the adaptive decay, before the first validation")
    delta: Positive = Field(4.0, description="sensitivity of alpha to validation loss")
    lambda_loss: NonNegative = Field(1.0, description="loss at which alpha is half way (nats)")
    theta_depth: Positive = Field(1.0, description="exponent of depth")
    theta_epoch: Positive = Field(1.0, description="exponent of training progress")
    # -- eq. (9)-(11): contextual rate
    complexity_theta: NonNegative = Field(10.0, description="Theta: gain of dataset complexity")
    duration_phi: Finite = Field(-5.0, description="Phi: < 0 grows with training, > 0 fades")
    performance_psi: Finite = Field(0.2, description="Psi: feedback from performance")
    performance: Performance = Field("accuracy", description="what P is")
    # -- eq. (13), (14), (16): importance weight
    lambda_init: NonNegative = Field(0.5, description="initial importance weight")
    kappa: NonNegative = Field(1.0, description="growth of the importance weight over training")
    theta: Positive = Field(1.0, description="exponent of that growth")
    # -- eq. (15): efficacy weights, one number or (early, middle, late)
    w_adaptive: Weight = 0.25
    w_structured: Weight = 0.25
    w_contextual: Weight = 0.25
    w_pfid: Weight = 0.25
    w_spatial: Weight = 0.0
    efficacy: Literal["fixed", "adaptive"] = Field("fixed", description="re-weight members after each epoch")
    efficacy_step: NonNegative = Field(0.5, description="step size of the adaptive re-weighting")
    efficacy_floor: Annotated[float, Field(ge=0, le=0.2)] = Field(0.02, description="no share falls below it")
    # -- where
    pattern: Pattern = "channel"
    allocation: Allocation = "uniform"
    importance: Importance = "taylor"
    importance_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="weight of the past in the moving average of importances, per refresh"
    )
    structured_threshold: Fraction = Field(0.5, description="normalised importance below which a channel may drop")
    block_size: Annotated[int, Field(ge=1)] = Field(3, description="side of a block of pattern 'spatial'")
    # -- how
    reading: Reading = "sound"
    update_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(
        "epoch", description="refresh rates every epoch, or every n optimizer steps"
    )
    drop_updates: bool | Literal["only"] = Field(
        False, description="Drop(p) on weight updates: beside the forward mask, or 'only' it"
    )
    sites: str | tuple[str, ...] = Field(
        "auto", description="auto, norm, conv, linear, block, last:k, or patterns on module names"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> EngineConfig:
        for stage in range(len(STAGES)):
            if sum(self.weights(stage)) == 0:
                raise ValueError("at least one of " + ", ".join(f"w_{m}" for m in METHODS) + " must be above 0")
        return self

    def weights(self, stage: int = 0) -> tuple[float, ...]:
        """Efficacy weights of eq. (15) in the order of METHODS, for a stage (0 early, 1 middle, 2 late)."""
        values = (getattr(self, f"w_{method}") for method in METHODS)
        return tuple(value[stage] if isinstance(value, tuple) else value for value in values)


class Baseline(Config):
    """What one would use otherwise, behind the same ``attach``: made of torch, torchvision and timm.

    ``dropout`` and ``dropout2d`` are torch's, ``stochastic_depth`` is torchvision's, ``dropblock`` is torchvision's or,
    with ``library: timm``, timm's, which drops more than asked (see README) and has to be installed.
    """

    kind: Literal["none", "dropout", "dropout2d", "dropblock", "stochastic_depth"]
    p: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="drop probability")
    schedule: Literal["constant", "linear"] = Field("constant", description="linear: 0 at the start, p at the end")
    block_size: Annotated[int, Field(ge=1)] = Field(3, description="dropblock only; odd, unless timm's")
    library: Literal["torchvision", "timm"] = Field("torchvision", description="dropblock only: whose it is")
    sites: str | tuple[str, ...] = "auto"

    @model_validator(mode="after")
    def _dropblock(self) -> Baseline:
        if self.library == "timm" and self.kind != "dropblock":
            raise ValueError(f"library: timm is for dropblock, got {self.kind}")
        if self.kind == "dropblock" and self.library == "torchvision" and self.block_size % 2 == 0:
            raise ValueError(f"block_size must be odd for dropblock, got {self.block_size}")
        return self


class DataConfig(Config):
    """Images and their seeded, stratified split; the test split is read once, after the study."""

    name: str = Field("digits", description="a data set's name, folder:PATH, numpy:FILE.npz or module:function")
    root: str = Field("data", description="where downloaded data sets lie")
    subset: Annotated[int, Field(ge=1)] | None = Field(None, description="a stratified n of the training images")
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = Field(None, description="resize to this side, in pixels")
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="only where none is given")
    split_seed: Annotated[int, Field(ge=0)] = 0


class ModelConfig(Config):
    """A network: small, resnet9, vgg, torchvision:NAME, timm:NAME or module:function."""

    name: str = "small"
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the builder")


class TrainConfig(Config):
    """How a network is trained: the recipe that every arm of a study shares."""

    epochs: Annotated[int, Field(ge=1)] = 30
    batch_size: Annotated[int, Field(ge=1)] = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="sgd only; Nesterov")
    weight_decay: NonNegative = 5e-4
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augment: tuple[Literal["shift", "flip", "cutout"], ...] = ()
    amp: Literal["none", "bf16", "auto"] = Field(
        "none", description="auto: bf16 where the device computes it in hardware; elsewhere it is far slower than none"
    )
    channels_last: bool = Field(
        False,
        description="channels innermost: faster on a CPU, but x.view(len(x), -1) fails where x.flatten(1) works",
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(None, description="stop after n epochs without a gain")
    smooth: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.6, description="decay of the moving average of validation loss that is optimised and pruned on"
    )
    device: str = Field("auto", description="auto (cuda when there is one), cpu, cuda, cuda:1")
    seed: Annotated[int, Field(ge=0)] = 0


class RunConfig(Config):
    """One training run, whole: what ``dropopt train`` needs and ``dropopt export`` writes."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    engine: EngineConfig | Baseline = EngineConfig()

    @model_validator(mode="before")
    @classmethod
    def _choose_engine(cls, values: Any) -> Any:
        # A smart union would report the errors of both arms; the key `kind` tells which one is meant.
        if isinstance(values, dict) and isinstance(values.get("engine"), dict):
            arm = Baseline if "kind" in values["engine"] else EngineConfig
            return {**values, "engine": arm.parse(values["engine"])}
        return values


def explain(error: ValidationError, model: type[BaseModel], values: Any) -> str:
    """One line for the first fault that ``error`` found in ``values``: what was given and what is allowed."""
    first = min(error.errors(), key=lambda one: one["type"] == "missing")  # its misspelt name tells more
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"{'.'.join(map(str, first['loc']))} is required"
    owner, given, path = model, values, []
    for part in first["loc"]:
        path.append(str(part))
        field = owner.model_fields.get(str(part))
        if field is None:  # unknown key
            return f"unknown setting {'.'.join(path)!r}; {suggestion(str(part), owner.model_fields)}"
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return f"{'.'.join(path)} must be {allowed(owner, str(part))}, got {given[part]!r}"
        owner, given = field.annotation, given[part]
    return f"{'.'.join(path) or model.__name__} must be a mapping of settings, got {given!r}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean 'alpha'? known: ...`` for a misspelt ``name``."""
    known = list(known)
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return (f"did you mean {folded[close[0]]!r}? " if close else "") + "known: " + ", ".join(known)


def allowed(model: type[BaseModel], name: str) -> str:
    """What the setting ``name`` of ``model`` may be, in words: ``in [0, 1]``, ``one of a, b``."""
    field = model.model_fields[name]
    return _words(field.annotation, field.metadata)


def bounds(model: type[BaseModel], name: str) -> tuple[float, float]:
    """The closed hull of a number's legal range; infinite where it has no bound."""
    field = model.model_fields[name]
    metadata = list(field.metadata)
    for arm in get_args(field.annotation):
        metadata += getattr(arm, "__metadata__", ())
    low, high = _range(metadata)
    return (-math.inf if low is None else low[0]), (math.inf if high is None else high[0])


_Bound = tuple[float, str] | None


def _range(metadata: Iterable[Any]) -> tuple[_Bound, _Bound]:
    """(lowest, '[' or '('), (highest, ']' or ')') of pydantic's constraints; None where unbounded."""
    low: _Bound = None
    high: _Bound = None
    for item in metadata:
        for rule in getattr(item, "metadata", [item]):  # a nested Field keeps its rules inside
            low = (rule.ge, "[") if hasattr(rule, "ge") else (rule.gt, "(") if hasattr(rule, "gt") else low
            high = (rule.le, "]") if hasattr(rule, "le") else (rule.lt, ")") if hasattr(rule, "lt") else high
    return low, high


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _words(annotation.__origin__, annotation.__metadata__)
    if origin is Literal:
        values = [str(value) for value in get_args(annotation)]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if origin in (Union, UnionType):
        return " or ".join(_words(arm) for arm in get_args(annotation))
    if origin is tuple:
        arms = get_args(annotation)
        return f"a list, each {_words(arms[0])}" if arms[-1] is ... else f"{len(arms)} of them, each {_words(arms[0])}"
    if annotation in (int, float):
        low, high = _range(metadata)
        kind = "an integer" if annotation is int else "a number"
        if low and high:
            return ("an integer " if annotation is int else "") + f"in {low[1]}{low[0]:g}, {high[0]:g}{high[1]}"
        if low:
            return f"{kind} {'>=' if low[1] == '[' else '>'} {low[0]:g}"
        return f"{kind} {'<=' if high[1] == ']' else '<'} {high[0]:g}" if high else f"a finite {kind[2:].lstrip()}"
    if annotation is str and metadata:
        ends = ("min_length", "max_length")
        least, most = (next(getattr(rule, end) for rule in metadata if hasattr(rule, end)) for end in ends)
        return f"text of {least} to {most} characters"
    return {bool: "true or false", str: "text", type(None): "nothing"}.get(annotation, "a mapping")
