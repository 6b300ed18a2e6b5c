"""Figures about the trials of a study, for its page in optuna-dashboard: any study has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropopt.study.show import series
from dropopt.study.show.formatting import capitalised
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.show.style import COLOURS, GRID, INK, KIND_COLOURS, epoch_axis, escaped, layout, logarithmic_axis

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: The opacity and the width of a curve, by the kind of trial.
_CURVE_STYLE = {"pruned": (0.5, 1), "complete": (0.8, 1.5), "anchor": (1, 1.5), "best": (1, 3)}

#: The name of the curves of a kind in the legend.
_SHARED = {"pruned": "pruned", "complete": "other good trials", "anchor": "anchors"}
#: The end of the colour scale of drop rates is at least this, so that a constant rate of 0 has the colour of 0.
LEAST_RATE = 0.1


def curves(shot: Snapshot) -> Figure | None:
    """Learning curves of the best trials, the anchors and some pruned trials."""
    from plotly.graph_objects import Figure

    found = series.curves(shot)
    if not found:
        return None
    picture, named = Figure(), set()
    for curve in found:
        opacity, width = _CURVE_STYLE[curve.kind]
        own = curve.kind == "best"  # the others share an entry of the legend
        picture.add_scatter(
            x=list(curve.epochs),
            y=list(curve.values),
            name=escaped(curve.name) if own else _SHARED[curve.kind],
            mode="lines",
            opacity=opacity,
            line={
                "width": width,
                "color": KIND_COLOURS[curve.kind],
                "dash": "dot" if curve.kind == "anchor" else "solid",
            },
            legendgroup=curve.name if own else curve.kind,
            showlegend=own or curve.kind not in named,
            hovertemplate=f"{escaped(curve.name)}: %{{y:.4g}} after epoch %{{x}}<extra></extra>",
        )
        named.add(curve.kind)
    picture.update_layout(layout("Learning curves", f"{shot.scale.way}; thick: best trial; dotted: anchors"))
    picture.update_xaxes(epoch_axis(max(curve.epochs[-1] for curve in found)))
    if series.is_logarithmic(found):
        picture.update_yaxes(logarithmic_axis(value for curve in found for value in curve.values))
    return picture.update_yaxes(title=escaped(shot.metric))


def rates(shot: Snapshot) -> Figure | None:
    """The applied drop rate of the best trial, by layer and epoch."""
    found = series.rates(shot)
    if found is None:
        return None
    return _heatmap(found, "Drop rate by layer and epoch", "layer", "applied rate")


def weights(shot: Snapshot) -> Figure | None:
    """The blend of the best trial, by method and epoch."""
    from plotly.graph_objects import Figure

    found = series.weights(shot)
    if found is None:
        return None
    picture = Figure()
    for index, (name, row) in enumerate(zip(found.names, found.rows, strict=True)):
        picture.add_scatter(
            x=list(found.epochs),
            y=list(row),
            name=escaped(name),
            mode="lines",
            line={"color": COLOURS[index % len(COLOURS)], "width": 1},
            stackgroup="blend",
        )
    picture.update_layout(layout("Blend of the best trial", f"trial {found.trial}: the share of each method by epoch"))
    picture.update_xaxes(epoch_axis(found.epochs[-1]))
    return picture.update_yaxes(title="share", range=[0, 1])


def cost(shot: Snapshot) -> Figure | None:
    """The metric of each trial against its training time."""
    from plotly.graph_objects import Figure

    found = series.cost(shot)
    if found is None:
        return None
    picture = Figure()
    for kind in series.KINDS:
        points = [point for point in found.points if point.kind == kind]
        if points:
            picture.add_scatter(
                x=[point.seconds for point in points],
                y=[point.score for point in points],
                text=[point.trial for point in points],
                name=kind,
                mode="markers",
                marker={
                    "color": KIND_COLOURS[kind],
                    "size": 13 if kind == "best" else 7,
                    "opacity": 0.6 if kind == "pruned" else 1,
                },
                hovertemplate="trial %{text}: %{y:.4g} after %{x:.6~g} s<extra></extra>",
            )
    name = found.score.removeprefix("validation ").removesuffix(" (smoothed)")  # a narrow card has no room for more
    picture.update_layout(layout(f"{capitalised(name)} against cost", found.way))
    picture.update_xaxes(title="seconds of training", rangemode="tozero")
    return picture.update_yaxes(title=escaped(found.score))


def _heatmap(found: series.Table, title: str, what: str, unit: str) -> Figure:
    """A coloured cell for each row and epoch."""
    from plotly.graph_objects import Figure, Heatmap

    names = [escaped(name) for name in found.names]
    picture = Figure(
        Heatmap(
            x=list(found.epochs),
            y=names,
            z=[[series.short(value) for value in row] for row in found.rows],
            zmin=0,
            zmax=max(max(map(max, found.rows)), LEAST_RATE),
            colorscale="Viridis",
            colorbar={"title": {"text": unit, "side": "right"}, "thickness": 12, "outlinecolor": GRID},
            hovertemplate=f"{what} %{{y}}, epoch %{{x}}: %{{z:.3f}}<extra></extra>",
        )
    )
    picture.update_layout(layout(title, f"{unit} of trial {found.trial}; first layer at the top"))
    picture.update_xaxes(epoch_axis(found.epochs[-1]))
    return picture.update_yaxes(type="category", autorange="reversed", tickfont={"size": 10, "color": INK})
