"""What a study learned about its blend, on its page in optuna-dashboard: a note to read and figures to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dropopt.study.store.keys import PRIOR

if TYPE_CHECKING:
    import optuna
    from plotly.graph_objects import Figure

    from dropopt.study.blend.effects import Effect
    from dropopt.study.blend.learned import Learned

#: Pixels of a card on the dashboard.
HEIGHT = 450
#: Characters of a title's small print that a card is wide, and the pixels that a line of it takes.
LINE, LINE_HEIGHT = 90, 16
#: Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def refresh(study: optuna.Study) -> None:
    """Bring the note and the figures up to date; a study that searches no blend is left alone."""
    from optuna_dashboard import save_note, save_plotly_graph_object

    from dropopt.study.blend.learned import learned
    from dropopt.study.blend.names import NoBlendError

    try:
        found = learned(study, prior=study.user_attrs.get(PRIOR))
    except NoBlendError:
        return
    save_note(study, note(found))
    if found.trajectory:
        for identifier, picture in figures(found).items():  # replaced at each refresh, never added to
            save_plotly_graph_object(study, picture, graph_object_id=identifier)


def note(found: Learned) -> str:
    """Markdown: the verdict, each method's effect, each pair's synergy, the blend now preferred."""
    effects = found.efficacy
    lines = ["## Which method works", "", f"**{effects.verdict}**", ""]
    for stage, (methods, pairs) in enumerate(zip(effects.methods, effects.pairs, strict=True)):
        if len(effects.methods) > 1:
            lines += [f"### {effects.names[stage][0].rsplit('_', 1)[-1]}", ""]
        lines += _table("method", methods) + _table("pair", pairs)
    blend = ", ".join(f"{name} {share:.2f}" for name, share in found.preferred.items())
    lines += [f"Blend now preferred{effects.caution}: {blend or 'none yet'}.", ""]
    lines += ["Effects are normal scores of the outcome, higher is better; intervals hold 90%."]
    return "\n".join(lines)


def _table(head: str, effects: Sequence[Effect]) -> list[str]:
    rows = [f"| {head} | effect | 90% interval | P(best) |", "| --- | ---: | ---: | ---: |"]
    for effect in sorted(effects, key=lambda effect: -effect.mean):
        interval = f"{effect.low:+.2f} to {effect.high:+.2f}"
        rows.append(f"| {effect.name} | {effect.mean:+.2f} | {interval} | {effect.best:.2f} |")
    return [*rows, ""]


def figures(found: Learned) -> dict[str, Figure]:
    """By identifier: the effects with their intervals, and the preferred blend over trials."""
    return {"dropopt-effects": _effects(found), "dropopt-blend": _trajectory(found)}


def _effects(found: Learned) -> Figure:
    from plotly.graph_objects import Figure

    efficacy = found.efficacy
    shown = [effect for methods in efficacy.methods for effect in methods]
    if len(efficacy.names) == 1:  # by stage there would be more rows than a card has room for; the note has them
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
        _layout(f"Blend now preferred, over trials<br><sub>{found.efficacy.caution.strip()}</sub>")
    )


def _layout(title: str) -> dict[str, Any]:
    """The dashboard gives a figure a card of this height."""
    margin = {"t": 70, "b": 50, "l": 60, "r": 20}
    return {"title": title, "height": HEIGHT, "margin": margin, "template": "plotly_white"}


def _intervals(effects: Sequence[Effect]) -> Any:
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
