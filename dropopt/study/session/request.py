"""What is asked of a session: which study to run, where, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dropopt.config import ConfigError, RunConfig
from dropopt.study.define.definition import Definition
from dropopt.study.define.space import Space
from dropopt.study.run import memory
from dropopt.study.run.checkpoints import folder_of
from dropopt.study.run.cluster import Cluster
from dropopt.study.run.slots import Targets
from dropopt.study.search.anchors import MIN_TRIALS
from dropopt.study.search.portfolio import Portfolio, load_portfolio
from dropopt.study.store.lease import GRACE
from dropopt.study.store.patient import PATIENCE
from dropopt.study.store.url import resolve

#: The settings that another worker needs, besides those in the study's identity.
PLANNED = (
    "n_trials",
    "sampler",
    "pruner",
    "seed",
    "anchors",
    "portfolio",
    "trial_timeout",
    "trial_memory",
    "keep_checkpoints",
)


@dataclass(frozen=True)
class Settings:
    """What a study searches, and how: as its script says, or as its storage says to other workers."""

    #: The search space.
    space: Space
    #: The configuration that all trials share.
    base: RunConfig
    #: The values of :data:`PLANNED`.
    plan: Mapping[str, Any]

    @classmethod
    def of(cls, definition: Definition, folder: Path) -> Settings:
        """Return the settings of a definition, whose search space is looked for in ``folder`` as well.

        Raises:
            ConfigError: The search space cannot be read.
        """
        space = definition.load_space(folder)
        return cls(space, definition.base(space), {name: getattr(definition, name) for name in PLANNED})


@dataclass(frozen=True)
class Request:
    """A study to run, with the options that are not part of its definition."""

    definition: Definition
    script: Path
    storage: str | None  # as given; None for the default
    n_jobs: int
    resume_command: str  # what to type to resume the study
    targets: Targets = field(default_factory=Targets)
    storage_patience: float = PATIENCE  # seconds
    grace: float = GRACE  # seconds
    extendable: bool = True  # whether the command that resumes the study takes --n-trials
    reclaim: bool = False  # whether to take up all running trials at once
    cluster: Cluster | None = None  # where the trials run; None for this machine
    command: str = ""  # what to type to repeat the study from its first trial
    quiet: bool = False  # whether to print nothing but errors
    artifacts: Path | None = None  # the folder of the best trials' files; None for the default
    stored: Settings | None = None  # the settings in the storage, for a worker that joins; None: the script has them

    @cached_property
    def settings(self) -> Settings:
        """What the study searches."""
        return self.stored or Settings.of(self.definition, self.script.parent)

    @cached_property
    def portfolio(self) -> Portfolio | None:
        """The configurations with which a new study begins after its anchors; None if it is short, or without any."""
        if self.definition.n_trials < MIN_TRIALS:
            return None
        return load_portfolio(self.definition.portfolio, self.script.parent)

    @cached_property
    def url(self) -> str:
        """The URL of the storage."""
        return resolve(self.storage)

    @property
    def memory_limit(self) -> int | None:
        """The bytes of memory that a trial may use; None for no limit.

        Raises:
            ConfigError: There is a limit, but this system cannot measure the memory of a process.
        """
        limit = self.definition.trial_memory
        if limit is not None and not memory.can_measure():
            raise ConfigError("trial-memory needs Linux: the memory of a process is read from /proc")
        return None if limit is None else limit * memory.MEGABYTE

    @property
    def checkpoints(self) -> Path | None:
        """The folder of the trials' checkpoints; None to train without them."""
        return folder_of(self.definition.checkpoints, self.url)
