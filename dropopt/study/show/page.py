"""The page of a study in optuna-dashboard: a note on its anchors and its blend, and figures about the blend."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from dropopt.study.search.anchors import compare
from dropopt.study.show.figures import figures
from dropopt.study.show.note import anchor_note, note
from dropopt.study.store.keys import PRIOR
from dropopt.study.store.queries import value_name

if TYPE_CHECKING:
    import optuna


def refresh(study: optuna.Study) -> None:
    """Update the note and the figures of ``study``. Nothing is written if it has neither anchors nor a blend."""
    from optuna_dashboard import save_note, save_plotly_graph_object

    from dropopt.study.blend.learned import learned
    from dropopt.study.blend.names import NoBlendError

    what = value_name(study)
    comparison = compare(study.get_trials(deepcopy=False), what)
    parts = [anchor_note(comparison, what)] if comparison else []
    found = None
    with suppress(NoBlendError):
        found = learned(study, prior=study.user_attrs.get(PRIOR))
        parts.append(note(found))
    if parts:
        save_note(study, "\n".join(parts))
    if found is not None and found.trajectory:
        for identifier, picture in figures(found).items():  # replaces the figure of the last refresh
            save_plotly_graph_object(study, picture, graph_object_id=identifier)
