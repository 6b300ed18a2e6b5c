"""Which parameters form the blend: declared by a user, listed by a search space, or found in trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dropopt.config import METHODS, STAGES, ConfigError

#: The parameters of a blend: one tuple of names for each stage (a single tuple if one blend holds for all stages).
#: All stages have the same number of names.
Names = tuple[tuple[str, ...], ...]

#: The weights of eq. (15).
BLEND = tuple(f"w_{method}" for method in METHODS)

#: The stage of each possible weight, by parameter name, in canonical order. None: the weight holds for all stages.
_STAGE_OF: dict[str, str | None] = {
    **dict.fromkeys(BLEND),
    **{f"{weight}_{stage}": stage for stage in STAGES for weight in BLEND},
}


class NoBlendError(ConfigError):
    """The study or search space has no blend that can be learned."""


def blend_names(blend: Sequence[str] | Sequence[Sequence[str]], stages: Sequence[str] | None = None) -> Names:
    """Check declared names and arrange them by stage.

    Args:
        blend: Two or more parameter names, or one sequence of names for each stage.
        stages: Suffixes to append to the names, if ``blend`` is one sequence: ``w_pfid`` becomes ``w_pfid_early``.

    Raises:
        ConfigError: A stage has fewer than two names, stages differ in their number of names, or names repeat.
    """
    groups: list[Sequence[str]]
    if all(isinstance(name, str) for name in blend):
        flat = [str(name) for name in blend]
        groups = [[f"{name}_{stage}" for name in flat] for stage in stages] if stages else [flat]
    else:
        groups = [[str(name) for name in group] for group in blend]
    names = tuple(tuple(group) for group in groups)
    flat = flatten(names)
    if not _complete(names) or len(set(flat)) != len(flat):
        raise ConfigError(f"blend must be two or more different names, the same number in each stage, got {blend!r}")
    return names


def searched_blend(parameters: Iterable[str]) -> Names:
    """The blend among the numeric parameters of a search space, in the order given; empty if there is none."""
    stages = _by_stage(parameters)
    names = tuple(tuple(group) for group in stages.values())
    return names if _complete(names) and (None not in stages or len(stages) == 1) else ()


def suggested_blend(parameters: Iterable[str]) -> Names:
    """The blend among the parameters that the trials of a study suggested, in a canonical order.

    Weights for all of training take precedence over weights by stage. If no known weight is found, all parameters
    whose names start with ``w_`` form the blend.

    Raises:
        NoBlendError: There are fewer than two such parameters.
    """
    seen = set(parameters)
    stages = _by_stage(name for name in _STAGE_OF if name in seen)
    shared = stages.pop(None, [])
    if len(shared) < 2 and not stages:
        shared = sorted(name for name in seen if name.startswith("w_"))
    names = (tuple(shared),) if len(shared) >= 2 else tuple(tuple(stages.get(stage, ())) for stage in STAGES)
    if not _complete(names):
        raise NoBlendError("no blend in this study: its trials suggest fewer than two of the weights w_*")
    return names


def flatten(names: Names) -> list[str]:
    """The names of all stages in one list."""
    return [name for stage in names for name in stage]


def _by_stage(parameters: Iterable[str]) -> dict[str | None, list[str]]:
    stages: dict[str | None, list[str]] = {}
    for name in parameters:
        if name in _STAGE_OF:
            stages.setdefault(_STAGE_OF[name], []).append(name)
    return stages


def _complete(names: Names) -> bool:
    """Whether there is a stage, and all stages have the same number of names, at least two."""
    return len({len(stage) for stage in names}) == 1 and len(names[0]) >= 2
