"""The note on a study's page in optuna-dashboard: what was searched and found, how sure that is, and what to type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dropopt.study.show import words
from dropopt.study.show.effects_report import costs, grouped
from dropopt.study.show.effects_table import HEADINGS, by_stage, effect_rows
from dropopt.study.show.formatting import anchor_rows
from dropopt.study.show.next_lines import next_lines
from dropopt.study.show.snapshot import Snapshot

if TYPE_CHECKING:
    from dropopt.study.blend.effects import Effect
    from dropopt.study.blend.learned import Learned
    from dropopt.study.search.anchors import Comparison
    from dropopt.study.store.scale import Scale

#: The line above dropopt's part of a note. What a person writes above it is kept.
MARK = "*dropopt updates the note from here on; write your own text above this line.*"


def note(shot: Snapshot, storage: str) -> str:
    """The note as Markdown, from its mark on; ``storage`` is the option ``--storage`` with a space before it."""
    parts = [MARK, "", f"## Study {plain(shot.name)}", "", *_lines(words.searched(shot))]
    parts += ["", "## Found so far", "", *_lines(words.found(shot))]
    if saved := words.saved(shot):
        parts.append(f"- **pruning** {plain(saved)}")
    if commands := list(next_lines(shot, storage, looking=True)):
        parts += ["", "## What to type next", "", "~~~~text"]
        parts += [f"{line.splitlines()[0]}    # {what}" for what, line in commands]
        parts += ["~~~~"]
    if shot.leader is not None and shot.comparison is not None:
        parts += ["", anchor_note(shot.comparison, shot.scale, shot.score)]
    if shot.effects is not None:
        parts += ["", "## Which dropout, how much, where, when, and whether at all", ""]
        parts += [
            f"- **{', '.join(titles).capitalize()}** {plain(answer.text)}"
            for titles, answer in grouped(shot.effects.answers)
        ]
        if sentence := costs(shot.effects):
            parts += ["", plain(sentence)]
        if text := words.importances(shot):
            parts += ["", plain(f"{text}.")]
    if shot.learned is not None:
        parts += ["", blend_note(shot.learned)]
    return "\n".join(parts)


def merged(stored: str, fresh: str) -> str:
    """The note to store: a person's text above the mark, then dropopt's part."""
    own, mark, _ = stored.partition(MARK)
    if not mark and stored.startswith(("## Does dropout help", "## Which method works")):
        own = ""  # an older version of dropopt wrote the note, which had no mark
    return f"{own.rstrip()}\n\n{fresh}" if own.strip() else fresh


def plain(text: str) -> str:
    """``text`` with the characters escaped that mean something in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def _lines(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [f"- **{word}** {plain(text)}" for word, text in pairs]


def blend_note(found: Learned) -> str:
    """Markdown with the verdict and, if an effect was found, all effects, synergies and the preferred blend."""
    efficacy = found.efficacy
    lines = ["## Which method works", "", f"**{efficacy.verdict}**", ""]
    if not (found.trajectory and efficacy.claims):
        return "\n".join(lines)
    for effects in by_stage(efficacy):
        if effects.stage:
            lines += [f"### {effects.stage}", ""]
        lines += [*_table("method", effects.methods), *_table("pair", effects.pairs)]
    blend = ", ".join(f"{name} {share:.2f}" for name, share in found.preferred.items())
    lines += [f"Preferred blend: {blend}.", ""]
    lines += ["Effects are normal scores of the outcome: higher is better. The intervals have a probability of 90%."]
    return "\n".join(lines)


def anchor_note(comparison: Comparison, scale: Scale, score: str = "accuracy") -> str:
    """Markdown with the verdict on the anchors and their values; ``score`` is the name of the metric."""
    rows = [f"| {' | '.join((plain(name), *cells))} |" for name, *cells in anchor_rows(comparison, scale)]
    text = ["## Does dropout help", "", f"**{comparison.verdict}**", ""]
    text += [
        f"| anchor | trial | {scale.name} (smoothed) | {score} | best trial's {scale.name} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*text, *rows, ""])


def _table(kind: str, effects: Sequence[Effect]) -> list[str]:
    rows = [f"| {' | '.join((kind, *HEADINGS))} |", "| --- | ---: | ---: | ---: |"]
    rows += [f"| {' | '.join((effect.name, *texts))} |" for effect, texts in effect_rows(effects)]
    return [*rows, ""]
