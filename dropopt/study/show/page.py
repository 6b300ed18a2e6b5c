"""The page of a study in optuna-dashboard: a note and figures about its blend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropopt.study.show.figures import figures
from dropopt.study.show.note import note
from dropopt.study.store.keys import PRIOR

if TYPE_CHECKING:
    import optuna


def refresh(study: optuna.Study) -> None:
    """Update the note and the figures of ``study``. Nothing is written if it has no blend."""
    from optuna_dashboard import save_note, save_plotly_graph_object

    from dropopt.study.blend.learned import learned
    from dropopt.study.blend.names import NoBlendError

    try:
        found = learned(study, prior=study.user_attrs.get(PRIOR))
    except NoBlendError:
        return
    save_note(study, note(found))
    if found.trajectory:
        for identifier, picture in figures(found).items():  # replaces the figure of the last refresh
            save_plotly_graph_object(study, picture, graph_object_id=identifier)
