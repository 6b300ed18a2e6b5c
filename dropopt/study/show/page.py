"""The page of a study in optuna-dashboard: a note and figures, which ``dropopt run`` stores while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropopt.study.show import trial_figures, words
from dropopt.study.show.card import card
from dropopt.study.show.effects_figures import ON_PAGE, effects_figure, importance_figure
from dropopt.study.show.effects_report import grouped
from dropopt.study.show.figures import figures
from dropopt.study.show.next_lines import next_lines
from dropopt.study.show.note import merged, note
from dropopt.study.show.snapshot import Snapshot

if TYPE_CHECKING:
    import optuna
    from plotly.graph_objects import Figure

#: The figures of trials, by their identifiers.
_TRIAL_FIGURES: Mapping[str, Callable[[Snapshot], Figure | None]] = {
    "dropopt-curves": trial_figures.curves,
    "dropopt-rates": trial_figures.rates,
    "dropopt-cost": trial_figures.cost,
    "dropopt-weights": trial_figures.weights,
}

#: The identifiers of all figures, in the order of the page.
ORDER = (
    *("dropopt-study", "dropopt-curves", "dropopt-rates", "dropopt-importance", "dropopt-costs", "dropopt-cost"),
    *("dropopt-effects", "dropopt-blend"),
)


@dataclass(frozen=True)
class Page:
    """The note, as Markdown, and the figures, as JSON by identifier, in the order of the page."""

    note: str
    figures: Mapping[str, str]


def build(study: optuna.Study, storage: str = "") -> Page:
    """Make the page of any study; nothing is stored.

    Args:
        study: The study.
        storage: The option ``--storage`` as it is typed, with a space before it; or empty.
    """
    shot = Snapshot.of(study)
    lines = [*words.found(shot), *_answers(shot), *words.searched(shot)]
    if text := words.importances(shot):
        lines.append(("importances", text))
    lines += [(f"next: {what}", line) for what, line in next_lines(shot, storage, looking=True)]
    pictures = {"dropopt-study": card(shot.name, lines)}
    pictures |= {name: picture for name, draw in _TRIAL_FIGURES.items() if (picture := draw(shot)) is not None}
    pictures |= _effects(shot)
    ordered = sorted(pictures, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    return Page(note(shot, storage), {name: str(pictures[name].to_json()) for name in ordered})


def refresh(study: optuna.Study, storage: str = "") -> None:
    """Update the stored note and figures of ``study``; parts that have not changed are not written."""
    from optuna_dashboard import get_note, save_note
    from optuna_dashboard._custom_plot_data import (
        SYSTEM_ATTR_PLOT_DATA,
        get_plotly_graph_objects,
        save_graph_object_json,
    )

    page = build(study, storage)
    known = study._storage.get_study_system_attrs(study._study_id)
    stored = get_note(study)
    if (text := merged(stored, page.note)) != stored:
        save_note(study, text)
    before = get_plotly_graph_objects(known)
    for name, picture in page.figures.items():
        if before.get(name) != picture:
            key = f"{SYSTEM_ATTR_PLOT_DATA}{name}:"
            save_graph_object_json(study._storage, study._study_id, key, picture)


def _answers(shot: Snapshot) -> list[words.Line]:
    """The five questions, such as "how much", with their answers; questions that share an answer are one line."""
    if shot.effects is None:
        return []
    return [(", ".join(titles).lower(), answer.text) for titles, answer in grouped(shot.effects.answers)]


def _effects(shot: Snapshot) -> dict[str, Figure]:
    """The figures of effects: those of all parameters, and those of the blend if the study has one."""
    pictures: dict[str, Figure] = {}
    if shot.effects is not None and shot.effects.factors:
        pictures = {
            "dropopt-importance": importance_figure(shot.effects),
            "dropopt-costs": effects_figure(shot.effects, ON_PAGE),
        }
    found = shot.learned
    return pictures | (figures(found) if found is not None and found.trajectory else {})
