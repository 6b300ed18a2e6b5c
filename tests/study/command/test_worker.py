"""``dropopt worker``: joining a study that only the storage describes."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import fake_study
import optuna
import pytest
from outside import Outside

from dropopt.config import ConfigError
from dropopt.study.command.options import Scheduler
from dropopt.study.command.resume_trial import resume_trial
from dropopt.study.command.worker import worker
from dropopt.study.session import continuing, session
from dropopt.study.session.joining import stored_request
from dropopt.study.store.errors import StorageError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The file of a study of two trials, whose plan is then set to four."""
    path = tmp_path_factory.mktemp("made") / "s.log"
    fake_study.run(str(path), 1, n_trials=2, seed=5, pruner="none")
    with Outside(str(path)) as study:
        study.set_user_attr("plan", study.user_attrs["plan"] | {"n_trials": 4})
    return path


@pytest.fixture
def storage(made, here):
    """A copy of that file, in a temporary working folder."""
    return shutil.copy(made, "s.log")


def join(storage, script=Path()):
    return stored_request(None, storage, 1, None, None, script, ["dropopt", "worker"])


def test_a_worker_does_what_the_study_says(storage):
    """The space, the settings, the number of trials, the sampler and the seed come from the storage."""
    request = join(storage)
    given = {"n_trials": 4, "sampler": "tpe", "pruner": "none", "seed": 5, "anchors": False}
    assert request.settings.plan == given | {
        "portfolio": "none",
        "trial_timeout": None,
        "trial_memory": None,
        "keep_checkpoints": 0,
    }
    assert request.settings.space.fingerprint == fake_study.make().load_space().fingerprint
    assert request.resume_command == "dropopt worker --study fake --storage s.log"
    assert session.run(replace(request, targets=fake_study.FAKE)) == 0
    found = fake_study.trials(storage)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 4
    assert len({str(trial.params) for trial in found}) == 4


def test_a_plan_that_another_program_has_changed(storage):
    """Settings that no plan has are not those of the command, and an unknown one is an error in one line."""
    with Outside(storage) as study:
        study.set_user_attr("plan", study.user_attrs["plan"] | {"name": "other", "timeout": 5})
    definition = join(storage).definition
    assert (definition.name, definition.timeout, definition.n_trials) == ("fake", None, 4)
    with Outside(storage) as study:
        study.set_user_attr("plan", study.user_attrs["plan"] | {"sampler": "none"})
    with pytest.raises(ConfigError, match=r"^study 'fake' has settings .*: sampler must be one of .*, got 'none'$"):
        join(storage)


def test_the_line_that_continues_has_the_options_that_were_given(storage, monkeypatch, capsys):
    """Of a worker, also in the file of a scheduler, and of a trial that is continued: the folders are still used."""
    lines = []
    monkeypatch.setattr(session, "run", lambda request: lines.append(request.resume_command) or 0)
    monkeypatch.setattr(continuing, "run", lambda request, number: lines.append(request.resume_command) or 0)
    given = {"storage": storage, "checkpoints": "/shared/my checkpoints", "grace": 5.0}
    worker(**given, n_jobs=2, artifacts=Path("/shared/art"))
    resume_trial(3, **given, trial_memory=900)
    folder, place = "'/shared/my checkpoints'", "--study fake --storage s.log"
    assert lines == [
        f"dropopt worker --n-jobs 2 --grace 5.0 --artifacts /shared/art --checkpoints {folder} {place}",
        f"dropopt resume-trial 3 --checkpoints {folder} --trial-memory 900 --grace 5.0 {place}",
    ]
    worker(study="fake", artifacts=Path("/shared/art"), print_for=Scheduler.SLURM)
    assert "--artifacts /shared/art" in capsys.readouterr().out


def test_a_worker_imports_nothing_that_only_the_storage_names(storage):
    """The script must be given; a study without stored settings for workers is an error."""
    with Outside(storage) as study:
        base = study.user_attrs["base"]
        study.set_user_attr("base", base | {"data": base["data"] | {"name": "evil:data"}})
        with pytest.raises(
            ConfigError, match=r"uses functions of evil; type: dropopt worker --study fake --storage s\.log SCRIPT"
        ):
            join(storage)
        optuna.create_study(study_name="foreign", storage=study._storage)
        with pytest.raises(ConfigError, match="study 'foreign' has no stored settings for workers"):
            stored_request("foreign", storage, 1, None, None, Path(), [])


def test_a_worker_waits_for_a_storage_that_is_away():
    """A server that cannot be reached when the worker starts is tried again for as long as --storage-patience says."""
    began = time.monotonic()
    away = "postgresql+psycopg://user:secret@127.0.0.1:1/name"
    with pytest.raises(StorageError, match=r"unreachable for \d s.*type the same command again") as caught:
        worker(study="fake", storage=away, storage_patience=1.0)
    assert time.monotonic() - began >= 1.0
    assert "secret" not in str(caught.value)


def test_a_worker_begins_a_study_that_has_no_trials(storage, monkeypatch):
    """The process that created the study died before the first trial: the worker begins it with the stored settings."""
    monkeypatch.setattr("dropopt.study.session.beginning.IDENTITY_PAUSE", 0.0)
    with Outside(storage) as study:
        facts = study.user_attrs | {"queue": "pending"}
        optuna.delete_study(study_name="fake", storage=study._storage)
        study = optuna.create_study(study_name="fake", storage=study._storage)
        for name, fact in facts.items():
            study.set_user_attr(name, fact)
    assert session.run(replace(join(storage), targets=fake_study.FAKE)) == 0
    assert [trial.state.name for trial in fake_study.trials(storage)] == ["COMPLETE"] * 4
    with Outside(storage) as study:
        assert study.user_attrs.items() >= (facts | {"queue": "done"}).items()
