"""The effects of a blend as rows of text, which the terminal and the dashboard show in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropopt.config import STAGES

if TYPE_CHECKING:
    from dropopt.study.blend.effects import Effect, Efficacy

#: Columns of a table of effects, after the name.
HEADINGS = ("mean", "90% interval", "P(best)")


@dataclass(frozen=True)
class StageEffects:
    """The effects of one stage of training."""

    stage: str  # empty if one blend holds for all of training
    shares: tuple[str, ...]  # names of the parameters
    methods: tuple[Effect, ...]
    pairs: tuple[Effect, ...]


def by_stage(efficacy: Efficacy) -> Iterator[StageEffects]:
    """The effects of each stage, in the order of training."""
    several = len(efficacy.names) > 1
    for index, (shares, methods, pairs) in enumerate(
        zip(efficacy.names, efficacy.methods, efficacy.pairs, strict=True)
    ):
        yield StageEffects(_stage_name(shares, index) if several else "", shares, methods, pairs)


def effect_rows(effects: Sequence[Effect]) -> Iterator[tuple[Effect, tuple[str, str, str]]]:
    """Each effect with the texts of the columns :data:`HEADINGS`, the largest mean first."""
    for effect in sorted(effects, key=lambda effect: -effect.mean):
        interval = f"{effect.low:+.2f} to {effect.high:+.2f}"
        yield effect, (f"{effect.mean:+.2f}", interval, f"{effect.best:.2f}")


def _stage_name(shares: Sequence[str], index: int) -> str:
    suffix = shares[0].rsplit("_", 1)[-1]
    return suffix if suffix in STAGES else f"stage {index + 1}"
