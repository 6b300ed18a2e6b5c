"""Where a result comes from: versions, machine, git and time."""

import subprocess

from dropopt.provenance import provenance


def test_versions_machine_and_time_are_recorded():
    """The result has the given facts, the versions of packages, the platform and a time with its zone."""
    facts = provenance(study="digits", seed=3)
    assert (facts["study"], facts["seed"]) == ("digits", 3)
    assert {"dropopt", "torch", "optuna", "numpy"} <= set(facts["versions"])
    assert facts["created"].endswith("+00:00")
    assert facts["cpus"] >= 1


def test_the_state_of_git_is_recorded(tmp_path, monkeypatch):
    """Commit and whether files differ from it, for the current folder; None outside of git or without git."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance()["git"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], check=True, capture_output=True)
    state = provenance()["git"]
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "new").write_text("")
    assert provenance()["git"]["dirty"] is True
    monkeypatch.chdir("/")
    assert provenance(tmp_path)["git"]["commit"] == state["commit"]
    assert provenance()["git"] is None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert provenance()["git"] is None


def test_git_is_given_no_password(tmp_path, monkeypatch):
    """The URL of a storage stays in this process; what git needs to read the repository of a user of sudo does not."""
    stand_in = tmp_path / "git"
    stand_in.write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\necho 0\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://me:canary@127.0.0.1/db")
    monkeypatch.setenv("SUDO_UID", "77")
    assert provenance()["git"] is not None
    assert "canary" not in (tmp_path / "seen").read_text()
    assert "SUDO_UID=77" in (tmp_path / "seen").read_text()
