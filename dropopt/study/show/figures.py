"""What a study learned about its blend, as figures on its page in optuna-dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropopt.study.show.style import COLOURS, error_bars, layout

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from dropopt.study.blend.learned import Learned


def figures(found: Learned) -> dict[str, Figure]:
    """The effects with their intervals, and the preferred blend over the trials, by identifier."""
    return {"dropopt-effects": _effects(found), "dropopt-blend": _trajectory(found)}


def _effects(found: Learned) -> Figure:
    """A row for each effect: a marker at its mean, green if positive and red if negative, and its 90% interval."""
    from plotly.graph_objects import Figure

    efficacy = found.efficacy
    shown = [effect for methods in efficacy.methods for effect in methods]
    if len(efficacy.names) == 1:  # with several stages, the card has no room for the pairs; they are in the note
        shown += efficacy.pairs[0]
    colour = {1: COLOURS[2], -1: COLOURS[5], 0: "grey"}
    picture = Figure().update_layout(layout("Which method works", efficacy.verdict))
    picture.add_scatter(
        x=[effect.mean for effect in shown],
        y=[effect.name for effect in shown],
        error_x=error_bars([(effect.mean, effect.low, effect.high) for effect in shown]),
        mode="markers",
        marker={"size": 9, "color": [colour[effect.sign] for effect in shown]},
        showlegend=False,
    )
    picture.add_vline(x=0, line={"color": "grey", "dash": "dot"})
    picture.update_yaxes(autorange="reversed", tickfont={"size": 10})
    picture.update_xaxes(title="effect in normal scores, 90% interval")
    return picture


def _trajectory(found: Learned) -> Figure:
    """A line for each share of the preferred blend."""
    from plotly.graph_objects import Figure

    picture = Figure().update_layout(layout("Preferred blend over the trials", found.efficacy.caution.strip()))
    trials = [count for count, _ in found.trajectory]
    for index, name in enumerate(found.preferred):
        shares = [blend.get(name, 0.0) for _, blend in found.trajectory]
        style = {"color": COLOURS[index % len(COLOURS)], "dash": "solid" if index < len(COLOURS) else "dot"}
        picture.add_scatter(x=trials, y=shares, name=name, mode="lines+markers", line=style)
    picture.update_xaxes(title="trials")
    return picture.update_yaxes(title="share", range=[0, 1])
