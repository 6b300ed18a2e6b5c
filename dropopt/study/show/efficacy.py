"""What a study learned about dropout: the five answers, and tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from optuna.study import Study
from rich.console import Group, RenderableType
from rich.text import Text

from dropopt.numbers import short
from dropopt.study.blend.effects import Effect
from dropopt.study.blend.learned import Learned, learned
from dropopt.study.blend.names import Names, NoBlendError
from dropopt.study.effects.effects import study_effects
from dropopt.study.show.effects_report import effects_parts
from dropopt.study.show.effects_table import HEADINGS, StageEffects, by_stage, effect_rows
from dropopt.study.show.table import Table


def efficacy_report(study: Study, names: Names | None = None, prior: Mapping[str, Any] | None = None) -> RenderableType:
    """Report which dropout works, how much, where, when, and whether any does, as text and tables for ``rich``.

    The report answers the five questions in words with 90% intervals, or says that the evidence is too thin and how
    many more trials might do. A table gives the importance and the best value of each parameter. If the study searched
    a blend of methods, tables follow with a verdict in one sentence, the effect of each method and the synergy of each
    pair, and the preferred blend over the trials.

    Args:
        study: A study with one objective, of dropopt or of your own.
        names: The names of the weights of a blend, one tuple for each stage of training. Default: the parameters named
            ``w_*`` in the trials.
        prior: Evidence about the blend from an earlier study, from ``dropopt.study.export_evidence``.

    Returns:
        An object that ``rich.print`` or a ``rich.console.Console`` prints.

    Raises:
        ConfigError: The study has several objectives.

    Example:
        >>> import optuna, rich
        >>> from dropopt.study import efficacy_report
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> study.optimize(lambda trial: 1 + (trial.suggest_float("r0", 0, 0.7) - 0.3) ** 2, n_trials=3)
        >>> rich.print(efficacy_report(study))  # doctest: +ELLIPSIS
        Which dropout, where, when: Not searched in this study.
        How much, whether at all: Too few trials to say: 3, ...
    """
    return report_of(study, names, prior).text


class Report(NamedTuple):
    """A report on a study."""

    text: Group
    short: bool  # whether tables in which nothing was found are left out
    missing: int  # the number of trials that are missing for a claim


def report_of(
    study: Study, names: Names | None = None, prior: Mapping[str, Any] | None = None, *, everything: bool = True
) -> Report:
    """The report of :func:`efficacy_report`; without ``everything``, tables in which nothing was found are left out."""
    effects = study_effects(study)
    tables = everything or any(answer.found for answer in effects.answers)
    parts, short = effects_parts(effects, tables=tables), bool(effects.factors) and not tables
    missing = effects.needed - effects.trials
    with suppress(NoBlendError):
        found = learned(study, names, prior)
        tables = everything or found.efficacy.claims
        parts += [Text(""), *_blend(found, effects.objective.in_units().called, tables=tables)]
        short |= bool(found.trajectory) and not tables
        missing = max(missing, found.efficacy.needed - found.efficacy.trials)
    return Report(Group(*parts), short, max(0, missing))


def _blend(found: Learned, called: str, *, tables: bool) -> list[RenderableType]:
    """The verdict on the blend and, in ``tables``, its effects and the preferred blend over the trials."""
    efficacy = found.efficacy
    parts: list[RenderableType] = [Text(efficacy.verdict, style="yellow" if efficacy.thin else "bold")]
    if not (found.trajectory and tables):
        return parts
    unit = f"; 1 is about {short(efficacy.unit)} in {called}" if np.isfinite(efficacy.unit) else ""
    stages = list(by_stage(efficacy))
    for effects in stages:
        where = _of_stage(effects.stage)
        parts += [
            _effects(f"Effect{where} (of moving the equal blend half way to the method alone{unit})", effects.methods),
            _effects(f"Synergy{where} (half of each method, compared with the mean of both alone)", effects.pairs),
        ]
    parts += [_trajectory(found, effects) for effects in stages]
    parts.append(Text("Effects are normal scores of the outcome: higher is better.", style="dim"))
    return parts


def _of_stage(stage: str) -> str:
    return f", {stage}" if stage else ""


def _effects(title: str, effects: Sequence[Effect]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    table.add_column("")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for effect, texts in effect_rows(effects):
        table.add_row(Text(effect.name), *texts, style={1: "green", -1: "red", 0: ""}[effect.sign])
    return table


def _trajectory(found: Learned, effects: StageEffects) -> Table:
    """The preferred blend of a stage, after increasing numbers of trials."""
    title = f"Preferred blend{_of_stage(effects.stage)}{found.efficacy.caution}"
    table = Table(title=title, title_justify="left")
    table.add_column("trials", justify="right")
    for name in effects.shares:
        table.add_column(Text(name.removesuffix(f"_{effects.stage}")), justify="right")  # five must fit on a terminal
    for trials, blend in found.trajectory:
        table.add_row(str(trials), *(f"{blend[name]:.2f}" for name in effects.shares))
    return table
