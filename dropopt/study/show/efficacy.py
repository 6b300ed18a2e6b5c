"""What a study learned about its blend, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.study import Study
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dropopt.config import STAGES
from dropopt.study.blend.effects import Effect
from dropopt.study.blend.learned import Learned, learned
from dropopt.study.blend.names import Names


def efficacy_report(study: Study, names: Names | None = None, prior: Mapping[str, Any] | None = None) -> RenderableType:
    """The verdict, effects and synergies with 90% credible intervals, and the preferred blend over time."""
    found = learned(study, names, prior)
    efficacy = found.efficacy
    parts: list[RenderableType] = [Text(efficacy.verdict, style="yellow" if efficacy.thin else "bold")]
    unit = f"; 1 is about {efficacy.unit:.3g} of the objective" if np.isfinite(efficacy.unit) else ""
    stages = [_stage_name(efficacy.names, s) if len(efficacy.names) > 1 else "" for s in range(len(efficacy.names))]
    for stage, methods, pairs in zip(stages, efficacy.methods, efficacy.pairs, strict=True):
        where = f", {stage}" if stage else ""
        parts.append(_effects(f"Effect{where} (equal blend, half way to the method alone{unit})", methods))
        parts.append(_effects(f"Synergy{where} (half and half against the mean of each alone)", pairs))
    if found.trajectory:
        parts += [_trajectory(found, names, stage) for names, stage in zip(efficacy.names, stages, strict=True)]
    parts.append(Text("Normal scores of the outcome: higher is better, whatever the direction.", style="dim"))
    return Group(*parts)


def _stage_name(names: Names, stage: int) -> str:
    suffix = names[stage][0].rsplit("_", 1)[-1]
    return suffix if suffix in STAGES else f"stage {stage + 1}"


def _effects(title: str, effects: Sequence[Effect]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("mean", "90% interval", "P(best)"):
        table.add_column(heading, justify="right")
    for effect in sorted(effects, key=lambda effect: -effect.mean):
        style = {1: "green", -1: "red", 0: ""}[effect.sign]
        interval = f"{effect.low:+.2f} to {effect.high:+.2f}"
        table.add_row(effect.name, f"{effect.mean:+.2f}", interval, f"{effect.best:.2f}", style=style)
    return table


def _trajectory(found: Learned, names: Sequence[str], stage: str) -> Table:
    title = "Preferred blend" + (f", {stage}" if stage else "") + found.efficacy.caution
    table = Table(title=title, title_justify="left")
    table.add_column("trials", justify="right")
    for name in names:
        table.add_column(name.removesuffix(f"_{stage}"), justify="right")  # five must fit on a terminal
    for trials, blend in found.trajectory:
        table.add_row(str(trials), *(f"{blend[name]:.2f}" for name in names))
    return table
