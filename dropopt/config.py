"""Every setting of dropopt, as frozen pydantic models that validate themselves.

Each setting has one name everywhere: the fields below are the keys of configuration files, the parameters of search
spaces, the columns of reports and the labels on the dashboard. Symbols are the paper's.

    RunConfig
      data    DataConfig               which images, and how they are split
      model   ModelConfig              which network
      task    TaskConfig               which loss and metric
      train   TrainConfig              how it is trained
      engine  EngineConfig | Baseline  which dropout
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dropopt.explain import explain

Reading = Literal["printed", "sound"]
Pattern = Literal["element", "channel", "structured", "spatial", "own"]
Allocation = Literal["uniform", "feature", "importance"]
Importance = Literal["activation", "taylor", "statistical", "gradient", "lrp", "composite"]
Performance = Literal["accuracy", "loss", "ratio"]
Optimise = Literal["loss", "accuracy"]
Method = Literal["adaptive", "structured", "contextual", "pfid", "spatial"]

#: The members of eq. (15), in the order in which every table and tensor of rates lists them.
METHODS: tuple[Method, ...] = get_args(Method)

#: Thirds of training, over which the weights of eq. (15) may change.
STAGES = ("early", "middle", "late")

#: Highest drop rate of a unit: kept units are scaled by 1 / (1 - p), at most 20-fold.
P_MAX = 0.95

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: An efficacy weight: one number, or one for each of the three stages of training.
Weight = Fraction | tuple[Fraction, Fraction, Fraction]


class ConfigError(ValueError):
    """An argument or a setting cannot be used. The message says what was given and what is allowed.

    Example:
        >>> EngineConfig.parse({"r0": 1.3})
        Traceback (most recent call last):
        dropopt.config.ConfigError: r0 must be in [0, 1], got 1.3
    """


class Config(BaseModel):
    """Base class of all settings: frozen, and an unknown key is an error."""

    # Pydantic would otherwise write an infinite option of a network as null.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, ser_json_inf_nan="constants")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate ``values`` and build the model.

        Args:
            values: settings by name, nested mappings included.

        Raises:
            ConfigError: with one line about the first setting that is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, values)) from None


class EngineConfig(Config):
    """Settings of the paper's dropout engine.

    The defaults are moderate, and a step costs what it costs with ``nn.Dropout2d``: whole channels are dropped, at a
    rate of about r0. With ``pattern="own"`` and the same rates, the test loss was lower on all four data sets on which
    both were compared (``tests/benchmarks/README.md``). A step of a small network then takes a tenth longer.

    Args:
        **settings: the fields below, by name.

    Raises:
        pydantic.ValidationError: if a value is outside its range. :meth:`parse` raises :class:`ConfigError` instead.

    Example:
        >>> config = EngineConfig(r0=0.3, pattern="spatial", w_contextual=0)
        >>> config.weights()
        (0.25, 0.25, 0.0, 0.25, 0.0)
    """

    # -- eq. (1), (2): adaptive rate and dynamic alpha
    r0: Fraction = Field(default=0.25, description="base drop rate, in [0, 1]")
    alpha: Annotated[float, Field(ge=-1, le=1)] = Field(
        default=0.5, description="how far the adaptive rate falls with depth and time, or rises if < 0, in [-1, 1]"
    )
    delta: Positive = Field(default=4.0, description="sensitivity of alpha to the validation loss, in 1/nats, > 0")
    lambda_loss: NonNegative = Field(default=1.0, description="validation loss at which alpha is halved, in nats, >= 0")
    theta_depth: Positive = Field(default=1.0, description="exponent of relative depth, > 0")
    theta_epoch: Positive = Field(default=1.0, description="exponent of the progress of training, > 0")
    # -- eq. (9)-(11): contextual rate
    complexity_theta: NonNegative = Field(default=10.0, description="Theta: gain of the data's complexity, >= 0")
    duration_phi: Finite = Field(
        default=-5.0, description="Phi: the rate grows during training if < 0, and falls if > 0"
    )
    performance_psi: Finite = Field(default=0.2, description="Psi: gain of the feedback from performance")
    performance: Performance = Field(
        default="accuracy", description="P: validation accuracy, validation loss, or validation loss / training loss"
    )
    # -- eq. (13), (14), (16): importance weight
    lambda_init: NonNegative = Field(default=0.5, description="importance weight at the start of training, >= 0")
    kappa: NonNegative = Field(default=1.0, description="relative growth of the importance weight over training, >= 0")
    theta: Positive = Field(default=1.0, description="exponent of progress in that growth, > 0")
    # -- eq. (15): efficacy weights, in [0, 1]: one number or (early, middle, late)
    w_adaptive: Weight = 0.25
    w_structured: Weight = 0.25
    w_contextual: Weight = 0.25
    w_pfid: Weight = 0.25
    w_spatial: Weight = 0.0
    efficacy: Literal["fixed", "adaptive"] = Field(
        default="fixed", description="adaptive: change the weights after each epoch"
    )
    efficacy_step: NonNegative = Field(default=0.5, description="step size of adaptive efficacy, >= 0")
    efficacy_floor: Annotated[float, Field(ge=0, le=0.2)] = Field(
        default=0.02, description="smallest share of a member under adaptive efficacy, in [0, 0.2]"
    )
    # -- which units
    pattern: Pattern = Field(
        default="channel", description="which units are dropped together; own: each method has a pattern of its own"
    )
    allocation: Allocation = Field(
        default="uniform", description="how features share the rate: equally, by eq. (13), by lemma"
    )
    importance: Importance = Field(default="taylor", description="how the importance of a feature is measured")
    importance_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.5, description="weight of the past in the moving average of importances, per refresh, in [0, 1)"
    )
    structured_threshold: Fraction = Field(
        default=0.5, description="highest normalised importance at which a channel may be dropped, in [0, 1]"
    )
    block_size: Annotated[int, Field(ge=1)] = Field(
        default=3, description="side of a block of pattern 'spatial', in positions, >= 1"
    )
    # -- how
    reading: Reading = Field(default="sound", description="the equations as printed, or as the prose describes them")
    update_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(
        default="epoch", description="refresh rates every epoch, or every n optimizer steps, n >= 1"
    )
    drop_updates: bool | Literal["only"] = Field(
        default=False, description="apply Drop(p) to weight updates too, or 'only' to these"
    )
    sites: str | tuple[str, ...] = Field(
        default="auto", description="auto, norm, conv, linear, block, last:k, or patterns on module names"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> EngineConfig:
        for stage in range(len(STAGES)):
            if sum(self.weights(stage)) == 0:
                raise ValueError("at least one of " + ", ".join(f"w_{m}" for m in METHODS) + " must be above 0")
        return self

    def weights(self, stage: int = 0) -> tuple[float, ...]:
        """Return the efficacy weights of eq. (15), in the order of METHODS, for a stage (0 early, 1 middle, 2 late)."""
        values = (getattr(self, f"w_{method}") for method in METHODS)
        return tuple(value[stage] if isinstance(value, tuple) else value for value in values)

    def uses(self, *methods: Method) -> bool:
        """Whether at least one of these members of eq. (15) has a weight in some stage of training."""
        stages = [dict(zip(METHODS, self.weights(stage), strict=True)) for stage in range(len(STAGES))]
        return any(weights[method] for weights in stages for method in methods)


class Baseline(Config):
    """Settings of an established dropout method, which the same ``attach`` adds for comparison with the engine.

    ``dropout`` and ``dropout2d`` are torch's, ``stochastic_depth`` is torchvision's, and ``dropblock`` is torchvision's
    or, with ``library: timm``, timm's. timm has to be installed, and its DropBlock drops more than ``p`` (see
    ``dropopt/engine/README.md``). On signals (N, C, L) and volumes (N, C, D, H, W), ``dropout2d`` is ``Dropout1d`` and
    ``Dropout3d``, and ``dropblock`` is ``Dropout``. On vectors and tokens both are ``Dropout``. Where a module's output
    has another shape than its input, ``stochastic_depth`` drops nothing.

    Args:
        **settings: the fields below, by name.

    Raises:
        pydantic.ValidationError: if a value is outside its range. :meth:`parse` raises :class:`ConfigError` instead.

    Example:
        >>> Baseline(kind="dropout2d", p=0.2).schedule
        'constant'
    """

    kind: Literal["none", "dropout", "dropout2d", "dropblock", "stochastic_depth"]
    p: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.1, description="drop probability, in [0, 1)")
    schedule: Literal["constant", "linear"] = Field(
        default="constant", description="linear: from 0 at the start to p at the end"
    )
    block_size: Annotated[int, Field(ge=1)] = Field(
        default=3, description="dropblock only: side of a block, in positions; odd for torchvision's"
    )
    library: Literal["torchvision", "timm"] = Field(
        default="torchvision", description="dropblock only: the implementation"
    )
    sites: str | tuple[str, ...] = Field(
        default="auto", description="auto, norm, conv, linear, block, last:k, or patterns on module names"
    )

    @model_validator(mode="after")
    def _dropblock(self) -> Baseline:
        if self.library == "timm" and self.kind != "dropblock":
            raise ValueError(f"library: timm is for dropblock, got {self.kind}")
        if self.kind == "dropblock" and self.library == "torchvision" and self.block_size % 2 == 0:
            raise ValueError(f"block_size must be odd for dropblock, got {self.block_size}")
        return self


class DataConfig(Config):
    """Which images to use, and their seeded, stratified split. A study never reads the test split."""

    name: str = Field(default="digits", description="a data set's name, folder:PATH, numpy:FILE.npz or module:function")
    root: str = Field(default="data", description="folder of downloaded data sets")
    subset: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="use a stratified sample of n training images"
    )
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = Field(
        default=None, description="resize images to this side, in pixels, in [4, 4096]"
    )
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="fraction of the training images for validation, in (0, 1)"
    )
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="fraction for testing, in (0, 1), where the data set has no test split"
    )
    split_seed: Annotated[int, Field(ge=0)] = Field(default=0, description="seed of the split, >= 0")
    validation_seed: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="seed of the validation split alone, >= 0; null: split_seed"
    )
    in_memory: bool | None = Field(
        default=None,
        description="PyTorch data sets only: whether training samples are read into memory, or anew in each epoch; "
        "null: anew if they are drawn at random or too large",
    )

    @field_validator("name", "root")
    @classmethod
    def _is_text(cls, given: str) -> str:
        """Refuse the name of a path that is not UTF-8: neither a file of settings nor a message to a process has it."""
        shown = given.encode(errors="backslashreplace").decode()
        if shown != given:
            raise ValueError(f"data: {shown} is not UTF-8; rename it, or give a link to it, made with: ln -s PATH NAME")
        return given


class ModelConfig(Config):
    """Which network to train."""

    name: str = Field(
        default="small", description="small, resnet9, vgg, torchvision:NAME, timm:NAME or module:function"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the network's function")


class TrainConfig(Config):
    """Settings of a training run: optimizer, schedule, augmentation and precision.

    Args:
        **settings: the fields below, by name.

    Raises:
        pydantic.ValidationError: if a value is outside its range. :meth:`parse` raises :class:`ConfigError` instead.

    Example:
        >>> TrainConfig(epochs=10, lr=0.05).optimizer
        'sgd'
    """

    epochs: Annotated[int, Field(ge=1)] = Field(default=30, description="passes over the training images, >= 1")
    batch_size: Annotated[int, Field(ge=1)] = Field(default=128, description="images per optimizer step, >= 1")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="sgd has Nesterov momentum")
    lr: Positive = Field(default=0.1, description="peak learning rate, > 0")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="sgd only, in [0, 1)")
    weight_decay: NonNegative = Field(default=5e-4, description="weight decay, >= 0")
    schedule: Literal["onecycle", "cosine", "constant"] = Field(
        default="onecycle", description="learning rate over training"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="of the training loss, in [0, 1)"
    )
    augment: tuple[Literal["shift", "flip", "cutout"], ...] = Field(
        default=(), description="random changes to training images"
    )
    amp: Literal["none", "bf16", "auto"] = Field(
        default="none",
        description="auto: bf16 if the device computes it in hardware, else float32; emulated bf16 is slower",
    )
    channels_last: bool = Field(
        default=False,
        description="channels innermost: faster on a CPU, but x.view(len(x), -1) fails where x.flatten(1) works",
    )
    lr_scale: dict[str, NonNegative] = Field(
        default_factory=dict,
        description="factors of the learning rate, >= 0, by patterns on parameter names; 0 freezes; first match counts",
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="stop after n epochs that were not better than the best one, n >= 1"
    )
    smooth: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.6, description="decay of the moving averages of the validation loss and accuracy, in [0, 1)"
    )
    device: str = Field(default="auto", description="auto (cuda if available), cpu, cuda, cuda:1")
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="seed of initial weights, data order and masks, >= 0"
    )


#: Losses of targets that are no classes.
_REGRESSION = ("mse_loss", "l1_loss")


class TaskConfig(Config):
    """What the network is trained for. The default is classification."""

    loss: str = Field(
        default="cross_entropy",
        description="cross_entropy, mse_loss, l1_loss, binary_cross_entropy_with_logits or module:function",
    )
    metric: str = Field(
        default="accuracy",
        description="accuracy, loss or module:function; without one, mse_loss and l1_loss have the loss",
    )
    direction: Literal["maximize", "minimize"] = Field(
        default="maximize", description="whether a higher metric is better"
    )
    objective: Literal["loss", "metric"] = Field(
        default="loss", description="what epochs and trials are judged by on the validation split"
    )

    @model_validator(mode="before")
    @classmethod
    def _default_metric(cls, given: Any) -> Any:
        """Without a metric, a regression has its loss: the accuracy is that of classes."""
        if isinstance(given, dict) and "metric" not in given and given.get("loss") in _REGRESSION:
            return {**given, "metric": "loss"}
        return given

    @property
    def score(self) -> str:
        """The name of the metric: that of its function."""
        return self.metric.rpartition(":")[2]

    @property
    def higher(self) -> bool:
        """Whether a higher value of the metric is better."""
        return self.direction == "maximize" and self.metric != "loss"

    @property
    def value(self) -> str:
        """What is minimised over epochs and trials, in words."""
        word = self.word(self.judged_by)
        return word if self.judged_by == "accuracy" and self.metric != "accuracy" else f"validation {word}"

    def cost(self, loss: float, metric: float, by: str) -> float:
        """What is minimised if results are judged ``by`` loss, or by ``accuracy``, which stands for any metric."""
        if by == "loss" or self.metric == "loss":
            return loss
        return 1.0 - metric if self.direction == "maximize" else metric

    def word(self, by: str) -> str:
        """What :meth:`cost` is, in a word: ``loss``, ``error`` (1 - accuracy), or the user's own metric."""
        if by == "loss" or self.metric == "loss":
            return "loss"
        if self.metric == "accuracy":
            return "error"
        return f"1 - {self.score}" if self.direction == "maximize" else self.score

    @property
    def judged_by(self) -> Optimise:
        """What counts: ``loss``, or ``accuracy`` for the metric."""
        return "loss" if self.objective == "loss" or self.metric == "loss" else "accuracy"


class RunConfig(Config):
    """One complete training run: what ``dropopt train`` reads and ``dropopt export`` writes.

    Args:
        **settings: the fields below, by name.

    Raises:
        pydantic.ValidationError: if a value is outside its range. :meth:`parse` raises :class:`ConfigError` instead.

    Example:
        >>> run = RunConfig.parse({"train": {"epochs": 5}, "engine": {"kind": "dropout", "p": 0.2}})
        >>> run.train.epochs, run.engine.kind, run.data.name
        (5, 'dropout', 'digits')
    """

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    train: TrainConfig = TrainConfig()
    engine: EngineConfig | Baseline = EngineConfig()

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that may name a function of the user, as ``module:function``."""
        return self.data.name, self.model.name, self.task.loss, self.task.metric

    @model_validator(mode="before")
    @classmethod
    def _choose_engine(cls, values: Any) -> Any:
        # Pydantic would report the errors of both types; the key `kind` tells which one is meant.
        if isinstance(values, dict) and isinstance(values.get("engine"), dict):
            arm = Baseline if "kind" in values["engine"] else EngineConfig
            return {**values, "engine": arm.parse(values["engine"])}
        return values
