"""The files of checkpoints: their names, and which of them are kept."""

import hashlib
import os
from pathlib import Path

import pytest

from dropopt.study.run.checkpoints import Checkpoints, folder_of, is_kept, keep, remove, restore


@pytest.mark.parametrize(
    ("study", "safe"),
    [
        *(("digits", "digits"), ("../a b/ü!", "a-b"), ("..", "study"), ("x" * 50, "x" * 40), ("a_b-C9", "a-b-C9")),
        *(("a\0b", "a-b"), ("ü" * 200, "study")),
    ],
)
def test_a_name_is_safe_and_unique(here, tmp_path, study, safe):
    """Letters and digits of the study, eight digits of the hash of its whole name, and the trial."""
    digest = hashlib.sha256(study.encode()).hexdigest()[:8]
    path = Checkpoints(Path("c"), study).path(12)
    assert path == tmp_path / "c" / f"{safe}-{digest}-12.pt"


def test_only_the_files_of_running_trials_survive_a_sweep(tmp_path):
    """Files of another study, kept checkpoints and files that are no checkpoints stay."""
    mine, other = Checkpoints(tmp_path, "a"), Checkpoints(tmp_path, "a b")
    odd = mine.path(0).with_name(mine.path(0).name.replace("-0.pt", "-x.pt"))
    stay = {mine.path(2), other.path(1), mine.path(3).with_suffix(".kept"), odd}
    for path in (*stay, mine.path(1), mine.path(10)):
        path.write_text("")
    mine.sweep(lambda: {2})
    assert set(tmp_path.iterdir()) == stay


def test_a_sweep_keeps_what_a_trial_writes_that_has_just_started(tmp_path):
    """The files are listed before the trials are read."""
    mine = Checkpoints(tmp_path, "a")
    ended, damaged, partial = (
        mine.path(1),
        tmp_path / f"{mine.path(4).name}.bad",
        tmp_path / f".{mine.path(5).name}.1f.tmp",
    )
    for path in (ended, damaged, partial):
        path.write_text("")

    def read():
        mine.path(7).write_text("")
        return ()

    mine.sweep(read)
    assert list(tmp_path.iterdir()) == [mine.path(7)]
    Checkpoints(tmp_path / "missing", "a").sweep(read)


def test_the_latest_ended_trials_are_kept_and_restored(tmp_path):
    """A checkpoint that is kept has another name until it is restored; older ones of the same study are removed."""
    mine, other = Checkpoints(tmp_path / "c", "a"), Checkpoints(tmp_path / "c", "b")
    (tmp_path / "c").mkdir()
    for age, path in enumerate((mine.path(4), mine.path(0), other.path(0), mine.path(7))):
        path.write_text(path.name)
        os.utime(path, (1000 + age, 1000 + age))
        keep(path, 2)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        path.with_suffix(".kept").name for path in (mine.path(0), mine.path(7), other.path(0))
    }
    assert [is_kept(mine.path(number)) for number in (0, 4)] == [True, False]
    for number in (0, 4):
        restore(mine.path(number))
    assert not mine.path(4).exists()
    assert mine.path(0).read_text() == mine.path(0).name
    assert not mine.path(0).with_suffix(".kept").exists()
    restore(mine.path(0))
    assert is_kept(mine.path(0))


def test_removal_leaves_nothing(tmp_path):
    """Damaged and incomplete copies go too, and the folder once it is empty."""
    path, last = (Checkpoints(tmp_path / "c", "a").path(number) for number in (0, 1))
    path.parent.mkdir()
    for name in (path.name, path.name + ".bad", f".{path.name}.1f.tmp", last.name):
        (path.parent / name).write_text("")
    remove(path)
    assert list(path.parent.iterdir()) == [last]
    remove(path)
    remove(last)
    assert not path.parent.exists()


def test_the_folder_lies_beside_a_storage_that_is_a_file():
    """A server has no such place."""
    for url in ("sqlite:////tmp/a/runs.db", "sqlite:////tmp/a/runs.db?timeout=3", "/tmp/a/runs.db"):
        assert str(folder_of(None, url)) == "/tmp/a/runs.db.checkpoints"
    for url in ("postgresql://user@host/db", "redis://host"):
        assert folder_of(None, url) is None
