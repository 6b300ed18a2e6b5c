"""What a study learned about its blend, as figures on its page in optuna-dashboard."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from dropopt.study.blend.effects import Effect
    from dropopt.study.blend.learned import Learned

#: Height of a card on the dashboard, in pixels.
HEIGHT = 450
#: Width of a card in characters of its subtitle, and height of a line of the subtitle in pixels.
LINE, LINE_HEIGHT = 90, 16
#: The palette of Okabe and Ito, whose colours colour-blind people can distinguish.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def figures(found: Learned) -> dict[str, Figure]:
    """The effects with their intervals, and the preferred blend over the trials, by identifier."""
    return {"dropopt-effects": _effects(found), "dropopt-blend": _trajectory(found)}


def _effects(found: Learned) -> Figure:
    """A row for each effect: a marker at its mean, and its 90% interval."""
    from plotly.graph_objects import Figure

    efficacy = found.efficacy
    shown = [effect for methods in efficacy.methods for effect in methods]
    if len(efficacy.names) == 1:  # with several stages, the card has no room for the pairs; they are in the note
        shown += efficacy.pairs[0]
    picture = Figure(_intervals(shown))
    picture.add_vline(x=0, line={"color": "grey", "dash": "dot"})
    picture.update_yaxes(autorange="reversed", tickfont={"size": 10})
    picture.update_xaxes(title="effect or synergy, 90% interval (normal scores, higher is better)")
    lines = textwrap.wrap(efficacy.verdict, LINE)
    layout = _layout(f"Which method works<br><sub>{'<br>'.join(lines)}</sub>")
    layout["margin"]["t"] += LINE_HEIGHT * (len(lines) - 1)
    return picture.update_layout(layout)


def _trajectory(found: Learned) -> Figure:
    """A line for each share of the preferred blend."""
    from plotly.graph_objects import Figure

    picture = Figure()
    trials = [count for count, _ in found.trajectory]
    for index, name in enumerate(found.preferred):
        shares = [blend.get(name, 0.0) for _, blend in found.trajectory]
        style = {"color": COLOURS[index % len(COLOURS)], "dash": "solid" if index < len(COLOURS) else "dot"}
        picture.add_scatter(x=trials, y=shares, name=name, mode="lines+markers", line=style)
    picture.update_xaxes(title="trials")
    picture.update_yaxes(title="share", range=[0, 1])
    return picture.update_layout(
        _layout(f"Preferred blend over the trials<br><sub>{found.efficacy.caution.strip()}</sub>")
    )


def _layout(title: str) -> dict[str, Any]:
    """The settings that both figures share."""
    margin = {"t": 70, "b": 50, "l": 60, "r": 20}
    return {"title": title, "height": HEIGHT, "margin": margin, "template": "plotly_white"}


def _intervals(effects: Sequence[Effect]) -> Any:
    """The markers and intervals, green for a positive effect and red for a negative one."""
    from plotly.graph_objects import Scatter

    colour = {1: COLOURS[2], -1: COLOURS[5], 0: "grey"}
    return Scatter(
        x=[effect.mean for effect in effects],
        y=[effect.name for effect in effects],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [effect.high - effect.mean for effect in effects],
            "arrayminus": [effect.mean - effect.low for effect in effects],
        },
        mode="markers",
        marker={"size": 9, "color": [colour[effect.sign] for effect in effects]},
        showlegend=False,
    )
