"""Studies as scripts: ``study = Study(...)`` and, below, ``study.main()``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dropopt.config import ConfigError
from dropopt.study.command.run import run_script
from dropopt.study.define.definition import Definition


class Study(Definition):
    """A hyperparameter study. ``Study(...)`` in a script defines one, ``study.main()`` runs it."""

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run this study as ``dropopt run`` does, with the same options (from ``sys.argv`` by default)."""
        caller = sys._getframe(1)
        if arguments is None and caller.f_code.co_name == "<module>" and caller.f_globals["__name__"] != "__main__":
            # Child processes import the script for its functions; they must not run the study once more.
            raise ConfigError(f'{caller.f_code.co_filename}: put study.main() below: if __name__ == "__main__":')
        run_script(self, arguments)
