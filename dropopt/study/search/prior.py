"""Priors: evidence about the blend, and the best configurations, that a study takes over from an earlier one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna

from dropopt.config import ConfigError
from dropopt.files import write_whole
from dropopt.study.blend.learned import export_evidence, top_configurations
from dropopt.study.define.parameter import is_within
from dropopt.study.define.space import Space
from dropopt.study.store.keys import PRIOR, SOURCE
from dropopt.study.store.opening import Opened
from dropopt.study.store.queries import find_study
from dropopt.study.store.url import resolve

#: Number of the earlier study's best configurations that a new study tries first.
CONFIGURATIONS = 3
#: The end of the name of a file, by which ``--prior`` tells it from a study.
PRIOR_SUFFIX = ".json"


@dataclass(frozen=True)
class Prior:
    """Evidence and configurations that one study passes on to another.

    Attributes:
        source: Name of the earlier study.
        evidence: Its evidence about the blend, from ``export_evidence``.
        configurations: The parameters of its best trials.
    """

    source: str
    evidence: Mapping[str, Any]
    configurations: list[dict[str, Any]]

    def apply_to(self, study: optuna.Study, space: Space, classes: int) -> None:
        """Store the evidence in ``study``, where all its workers find it, and enqueue the configurations.

        Only parameters that ``space`` searches, with values inside their ranges, are enqueued; the sampler chooses
        the others. ``classes`` is the number of classes of the data.
        """
        study.set_user_attr(PRIOR, dict(self.evidence))
        for configuration in self.configurations:
            legal = {
                parameter.name: configuration[parameter.name]
                for parameter in space.parameters
                if parameter.name in configuration
                and is_within(parameter.distribution(classes), configuration[parameter.name])
            }
            if legal:
                study.enqueue_trial(legal, user_attrs={SOURCE: self.source}, skip_if_exists=True)

    def save(self, path: Path) -> None:
        """Write a file that :func:`load_prior` reads."""
        write_whole(path, (json.dumps(asdict(self), indent=1) + "\n").encode())


def prior_of(study: optuna.Study) -> Prior:
    """The prior that ``study`` provides; raises NoBlendError if it searched no blend."""
    return Prior(study.study_name, export_evidence(study), top_configurations(study, CONFIGURATIONS))


def is_file(given: str) -> bool:
    """Whether ``--prior`` was given a file, and not a study."""
    return Path(given).suffix == PRIOR_SUFFIX


def load_prior(given: str, url: str) -> Prior:
    """Load a prior.

    Args:
        given: STUDY (in the storage at ``url``), STUDY@STORAGE, or the path of a .json file.
        url: The default storage.

    Raises:
        ConfigError: There is no such study, storage or file, or the file is not a prior.
    """
    if is_file(given):
        return _read(Path(given).expanduser())
    name, at, where = given.partition("@")
    with closing(Opened(resolve(where) if at else url, create=False)) as opened:
        return prior_of(find_study(opened.storage, name))


def _read(path: Path) -> Prior:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Prior(str(content["source"]), dict(content["evidence"]), [dict(c) for c in content["configurations"]])
    except OSError as error:
        raise ConfigError(f"prior {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"prior {path} is not a file written by dropopt efficacy -o: {error!r}") from None
