"""``dropopt status``."""

from __future__ import annotations

from contextlib import closing

from dropopt.study.command import options


def status(study: options.OneStudy = None, storage: options.Storage = None, as_json: options.AsJson = False) -> None:
    """List the studies in a storage.

    Each row shows the number of trials, the best trial and the time of the last activity.
    """
    from dropopt.study.command.output import json_text
    from dropopt.study.show.console import make_console
    from dropopt.study.show.status import rows, show_status
    from dropopt.study.store.opening import Opened
    from dropopt.study.store.sqlite_lock import is_held
    from dropopt.study.store.url import file_of, redact, resolve

    url = resolve(storage)
    with closing(Opened(url, create=False)) as opened:
        file = file_of(url)
        alone = file is not None and "://" in url and not is_held(file)
        if as_json:
            print(json_text([row.plain() for row in rows(opened.storage, study, alone=alone)]))
        else:
            show_status(make_console(), opened.storage, redact(url), study, alone=alone)
