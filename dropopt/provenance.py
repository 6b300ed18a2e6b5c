"""Where a result comes from: package versions, the machine, the state of git and the time."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

#: Packages whose versions can change a result.
PACKAGES = ("dropopt", "torch", "torchvision", "optuna", "numpy", "scikit-learn", "pydantic")

#: Seconds before a call of git is given up, for example on a network drive that does not answer.
_GIT_SECONDS = 5

#: What git is given of the environment, besides ``GIT_*``; the rest may hold a password, such as that of a storage.
#: With SUDO_UID, git reads a repository of the user who has called sudo.
_GIT_VARIABLES = ("PATH", "HOME", "XDG_CONFIG_HOME", "LD_LIBRARY_PATH", "SUDO_UID", "SYSTEMROOT")


def provenance(folder: Path | None = None, **facts: Any) -> dict[str, Any]:
    """Describe the environment of a result.

    Args:
        folder: The folder whose git repository is described: that of the script. Default: the current folder.
        **facts: Further entries, which come first.

    Returns:
        ``facts``, the time (UTC), the versions of Python and of :data:`PACKAGES`, the platform, the number of CPUs, and
        the git commit of ``folder`` (None outside of a git repository).
    """
    return {
        **facts,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": _versions(),
        "git": _git_state(folder or Path()),
    }


def _versions() -> dict[str, str]:
    """The versions of those :data:`PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the repository of ``folder``, and whether files differ from it; None if there is none."""

    shown = {name: value for name, value in os.environ.items() if name in _GIT_VARIABLES or name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True, env=shown)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
