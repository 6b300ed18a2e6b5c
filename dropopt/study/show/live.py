"""The page of a study while the study runs: updated now and then, so that trials lose little time to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from dropopt.study.store.errors import StorageError

#: Seconds between two updates; and the time between them as a multiple of the duration of an update.
PAUSE, REST = 30.0, 50.0


class LivePage:
    """Updates a page after a trial has ended, unless the last update was a short time ago.

    Args:
        refresh: Updates the page.
    """

    def __init__(self, refresh: Callable[[], None]) -> None:
        self._refresh = refresh
        self._again = time.monotonic() + PAUSE

    def update(self) -> None:
        """Update the page if it is time. After an error the page is not updated again, and the study goes on."""
        began = time.monotonic()
        if began < self._again:
            return
        try:
            self._refresh()
        except StorageError:
            raise
        except Exception:  # the end of the study updates the page once more, and reports the error
            self._again = math.inf
            return
        ended = time.monotonic()
        self._again = ended + max(PAUSE, REST * (ended - began))
