"""Starting a study from what another one learned: its evidence about the blend, discounted, and its best trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropopt.config import ConfigError
from dropopt.files import write_whole
from dropopt.study.blend.insight import export_evidence, top_configurations
from dropopt.study.store.keys import PRIOR
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study
from dropopt.study.store.url import resolve

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

    from dropopt.study.define.space import Space

#: The source's best configurations that a new study tries first.
CONFIGURATIONS = 3


@dataclass(frozen=True)
class Prior:
    """What one study hands to another."""

    source: str
    evidence: Mapping[str, Any]  # of ``export_evidence``
    configurations: list[dict[str, Any]]

    def seed(self, study: optuna.Study, space: Space, classes: int) -> None:
        """Write the evidence on ``study``, for all its workers, and enqueue what ``space`` holds of each configuration.

        A setting that the space does not search, or not there, is left to the sampler.
        """
        study.set_user_attr(PRIOR, dict(self.evidence))
        for configuration in self.configurations:
            legal = {
                parameter.name: configuration[parameter.name]
                for parameter in space.parameters
                if parameter.name in configuration
                and _within(parameter.distribution(classes), configuration[parameter.name])
            }
            if legal:
                study.enqueue_trial(legal, user_attrs={"from": self.source}, skip_if_exists=True)

    def save(self, path: Path) -> None:
        """Write a file that :func:`load_prior` reads."""
        write_whole(path, (json.dumps(asdict(self), indent=1) + "\n").encode())


def _within(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def prior_of(study: optuna.Study) -> Prior:
    """What ``study`` has to hand on; raises ConfigError when it searched no blend."""
    return Prior(study.study_name, export_evidence(study), top_configurations(study, CONFIGURATIONS))


def load_prior(given: str, url: str) -> Prior:
    """The prior that ``given`` names: STUDY (in the storage at ``url``), STUDY@STORAGE, or a file."""
    path = Path(given).expanduser()
    if path.suffix == ".json":
        return _read(path)
    name, at, where = given.partition("@")
    with closing(Opened(resolve(where) if at else url, create=False)) as opened:
        return prior_of(find_study(opened.storage, name))


def _read(path: Path) -> Prior:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Prior(str(content["source"]), dict(content["evidence"]), [dict(c) for c in content["configurations"]])
    except OSError as error:
        raise ConfigError(f"prior {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"prior {path} is not a file that dropopt efficacy -o wrote: {error!r}") from None
