"""What a study found, as a Markdown note on its page in optuna-dashboard: its anchors and its blend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dropopt.study.show.effects_table import HEADINGS, by_stage, effect_rows

if TYPE_CHECKING:
    from dropopt.study.blend.effects import Effect
    from dropopt.study.blend.learned import Learned
    from dropopt.study.search.anchors import Comparison


def note(found: Learned) -> str:
    """Markdown with the verdict, the effect of each method, the synergy of each pair and the preferred blend."""
    efficacy = found.efficacy
    lines = ["## Which method works", "", f"**{efficacy.verdict}**", ""]
    for effects in by_stage(efficacy):
        if effects.stage:
            lines += [f"### {effects.stage}", ""]
        lines += [*_table("method", effects.methods), *_table("pair", effects.pairs)]
    blend = ", ".join(f"{name} {share:.2f}" for name, share in found.preferred.items())
    lines += [f"Preferred blend{efficacy.caution}: {blend or 'none yet'}.", ""]
    lines += ["Effects are normal scores of the outcome: higher is better. The intervals have a probability of 90%."]
    return "\n".join(lines)


def anchor_note(comparison: Comparison, what: str = "loss") -> str:
    """Markdown with the verdict on the anchors and their values; ``what`` names them."""
    rows = [
        f"| {row.name} | {row.trial} | {row.loss:.4f} | {'-' if row.accuracy is None else f'{row.accuracy:.4f}'} "
        f"| {row.difference:+.1%} |"
        for row in comparison.rows
    ]
    text = ["## Does dropout help", "", f"**{comparison.verdict}**", ""]
    text += [
        f"| anchor | trial | {what} (smoothed) | accuracy | best trial's {what} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*text, *rows, ""])


def _table(kind: str, effects: Sequence[Effect]) -> list[str]:
    rows = [f"| {' | '.join((kind, *HEADINGS))} |", "| --- | ---: | ---: | ---: |"]
    rows += [f"| {' | '.join((effect.name, *texts))} |" for effect, texts in effect_rows(effects)]
    return [*rows, ""]
