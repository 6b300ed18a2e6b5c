"""``dropopt status``."""

from __future__ import annotations

from contextlib import closing

from dropopt.study.command.options import Storage


def status(storage: Storage = None) -> None:
    """List the studies: trials, best value, last activity."""
    from dropopt.study.show.console import make_console
    from dropopt.study.show.tables import status as show_status
    from dropopt.study.store.opening import Opened
    from dropopt.study.store.url import redact, resolve

    url = resolve(storage)
    with closing(Opened(url, create=False)) as opened:
        show_status(make_console(), opened.storage, redact(url))
