"""Where a result comes from: versions, git state, the script."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("dropopt", "torch", "torchvision", "optuna", "scikit-learn")


def made_with(script: Path) -> dict[str, str]:
    """What a study ran with; read off the installed packages, so nothing is imported."""
    versions = {name: version(name) for name in _PACKAGES}
    found = {"script": script.name, "python": platform.python_version(), **versions}
    state = git_state(script.parent)
    return found | ({"git": state} if state else {})


def git_state(folder: Path) -> str:
    """The commit that ``folder`` is at, with ``-dirty`` where files have changed; empty outside of git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""
