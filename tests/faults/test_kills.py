"""Random kills of workers and slots during one study, on each storage; PostgreSQL is restarted in the middle.

``soak.py`` in this folder does the same for as long as one likes.
"""

import optuna
import pytest
from chaos import torment

from dropopt.study.search.anchors import enqueue_anchors
from dropopt.study.session import beginning

#: Few kills, because a worker takes seconds to start. By this seed they are of workers and of slots on every storage.
KILLS, SEED = 6, 8


@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgres"])
def test_random_kills(kind, tmp_path, request):
    """The total is exact, no trial is lost, repeated or left running, and each value can be repeated."""
    server = request.getfixturevalue("server") if kind == "postgres" else None
    places = {"sqlite": f"sqlite:///{tmp_path}/s.db", "journal": str(tmp_path / "s.log")}
    storage = server.url if server is not None else places[kind]
    workers, slots = (1, 2) if kind == "sqlite" else (2, 1)
    torment(storage, KILLS, n_trials=14, seed=SEED, workers=workers, slots=slots, often=0.3, pause=0.8, server=server)


def test_a_kill_while_the_first_trials_are_enqueued_loses_none(tmp_path, monkeypatch):
    """The next run enqueues those that are missing."""
    import fake_study

    class Killed(BaseException):
        """Ends the process."""

    def enqueue_two(study, *arguments):
        whole = optuna.create_study()
        enqueue_anchors(whole, *arguments)
        for trial in whole.trials[:2]:
            study.add_trial(trial)
        raise Killed

    storage = str(tmp_path / "s.log")
    options = {"n_trials": 12, "anchors": True, "n_jobs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(beginning, "enqueue_anchors", enqueue_two)
        with pytest.raises(Killed):
            fake_study.run(storage, **options)
    assert len(fake_study.trials(storage)) == 2
    assert fake_study.run(storage, **options) == 0
    names = [trial.user_attrs["anchor"] for trial in fake_study.trials(storage) if "anchor" in trial.user_attrs]
    assert len(names) == len(set(names)) > 2
