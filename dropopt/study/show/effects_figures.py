"""The effects of everything that a study varied, as figures: importances, and the costs of the levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dropopt.numbers import quantity
from dropopt.study.show.formatting import capitalised
from dropopt.study.show.style import COLOURS, GRID, HEIGHT, error_bars, layout, logarithmic_axis

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from dropopt.study.effects.effects import Effects
    from dropopt.study.effects.words import FactorEffect

#: Factors that a figure shows, the most important first.
SHOWN = 8
#: Panels of the figure of costs that fit into a card of the page, whose height is fixed.
ON_PAGE = 4
#: Panels in a row of the figure of costs; pixels of a row, of the space between rows, and of the titles of panels.
ACROSS, ROW_HEIGHT, GAP, TITLES = 2, 210, 72, 28
#: Characters of the labels below a panel that fit beside each other in a narrow card.
LABELS = 20
#: Costs above this fraction of the objective are cut off, so that the others can be read.
HIGHEST = 2.0


def importance_figure(effects: Effects) -> Figure:
    """Draw how much each parameter matters, with 90% intervals.

    Args:
        effects: The effects, from :func:`dropopt.study.study_effects`.

    Returns:
        A bar for each parameter: its share of the variance over the search space, without noise. The part that it
        explains alone is darker. Without effects, a figure that says so.

    Example:
        >>> import optuna
        >>> from dropopt.study import importance_figure, study_effects
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> study.optimize(lambda trial: trial.suggest_float("r0", 0, 1) ** 2, n_trials=9)
        >>> importance_figure(study_effects(study)).data[0].y
        ('r0',)
    """
    from plotly.graph_objects import Figure

    shown = effects.factors[:SHOWN]
    picture = Figure()
    names = [effect.name for effect in shown]
    total = [effect.importance.total for effect in shown]
    picture.add_bar(
        x=[one.value for one in total],
        y=names,
        orientation="h",
        name="together with others",
        marker={"color": COLOURS[4]},
        error_x=error_bars([(one.value, one.low, one.high) for one in total]),
    )
    picture.add_bar(
        x=[min(effect.importance.first.value, effect.importance.total.value) for effect in shown],
        y=names,
        orientation="h",
        name="alone",
        marker={"color": COLOURS[0]},
        width=0.4,
    )
    picture.update_xaxes(title="share of the variance", range=[0, 1])
    picture.update_yaxes(autorange="reversed")
    reach = f"{_reach(effects)}; without noise, 90% intervals" if shown else _reach(effects)
    return picture.update_layout(layout("Which parameter matters", reach), barmode="overlay")


def effects_figure(effects: Effects, most: int = SHOWN) -> Figure:
    """Draw the cost of each value of the most important parameters, with 90% intervals.

    Args:
        effects: The effects, from :func:`dropopt.study.study_effects`.
        most: Number of parameters at most, the most important first.

    Returns:
        A panel for each parameter, the most important first. The height is the cost of a value, at the best of the
        other parameters, compared with the best value. Without effects, a figure that says so.

    Example:
        >>> import optuna
        >>> from dropopt.study import effects_figure, study_effects
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> study.optimize(lambda trial: 1 + trial.suggest_float("r0", 0, 1) ** 2, n_trials=9)
        >>> [note.text for note in effects_figure(study_effects(study)).layout.annotations]
        ['r0']
    """
    from plotly.subplots import make_subplots

    shown = effects.factors[:most]
    rows = max(1, -(-len(shown) // ACROSS))
    cost = effects.objective.cost(ratio=effects.ratio)
    shared = layout("What each value costs", f"{capitalised(cost)}; 90% intervals. {_reach(effects)}.")
    margin = shared["margin"] | {"t": shared["margin"]["t"] + TITLES}
    height = max(HEIGHT, 30 + ROW_HEIGHT * rows)
    picture = make_subplots(
        rows=rows,
        cols=min(ACROSS, max(1, len(shown))),
        subplot_titles=[effect.name for effect in shown],
        vertical_spacing=GAP / (height - margin["t"] - margin["b"]),
        horizontal_spacing=0.12,
    )
    for index, effect in enumerate(shown):
        place = {"row": index // ACROSS + 1, "col": index % ACROSS + 1}
        for trace in _panel(effect):
            picture.add_trace(trace, **place)
        highest = max((level.best.high for level in effect.profile.levels), default=0.0)
        if effects.ratio and highest > HIGHEST:
            picture.update_yaxes(range=[-0.2, HIGHEST], **place)
        picture.update_yaxes(tickformat=".0%" if effects.ratio else "", **place)
        if sum(len(level.label) for level in effect.profile.levels) > LABELS and effect.factor.kind != "number":
            picture.update_xaxes(tickangle=-30, **place)  # towards the left, where no label leaves the card
        if effect.factor.log:
            picture.update_xaxes(logarithmic_axis((effect.factor.low, effect.factor.high)), **place)
    picture.update_xaxes(gridcolor=GRID, linecolor=GRID, zeroline=False, tickfont={"size": 10})
    picture.update_yaxes(gridcolor=GRID, linecolor=GRID, zerolinecolor=GRID, tickfont={"size": 10})
    picture.update_annotations(font={"size": 13})
    return picture.update_layout(shared | {"height": height, "margin": margin})


def _panel(effect: FactorEffect) -> list[Any]:
    """A line with a band for a number, markers with intervals for a choice."""
    from plotly.graph_objects import Scatter

    levels = effect.profile.levels
    costs = [level.best for level in levels]
    middle = [cost.value for cost in costs]
    if effect.factor.kind != "number":
        return [
            Scatter(
                x=[level.label for level in levels],
                y=middle,
                error_y=error_bars([(cost.value, cost.low, cost.high) for cost in costs]),
                mode="markers",
                # Red for a level that costs something, grey for one that may be the best.
                marker={"size": 9, "color": [COLOURS[5] if cost.low > 0 else "grey" for cost in costs]},
                showlegend=False,
            )
        ]
    at = [level.value for level in levels]
    line = {"color": COLOURS[0]}
    band = Scatter(
        x=[*at, *reversed(at)],
        y=[*(cost.high for cost in costs), *reversed([cost.low for cost in costs])],
        fill="toself",
        fillcolor="rgba(0, 114, 178, 0.2)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )
    return [band, Scatter(x=at, y=middle, mode="lines", line=line, showlegend=False)]


def _reach(effects: Effects) -> str:
    if not effects.factors:
        return f"Too few trials: {effects.trials} ({effects.complete} complete)"
    caution = f"; no claim is made with fewer than {effects.needed}" if effects.thin else ""
    return f"{quantity(effects.trials, 'trial')}, {effects.complete} of them complete{caution}"
