"""WSGI middleware that shows a fresh note and fresh figures on a study's page, and its attributes in readable form.

The dashboard stores nothing: a read-only dashboard works on a storage that cannot be written, and on studies that
other programs run. The pages that ``dropopt run`` has stored are what other installations of optuna-dashboard show.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dropopt.study.show import words
from dropopt.study.show.arrangement import arranged
from dropopt.study.show.next_lines import next_lines
from dropopt.study.show.note import merged
from dropopt.study.show.page import Page, build
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store import keys
from dropopt.study.store.queries import metric_key, searches, task_of

if TYPE_CHECKING:
    import optuna
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from optuna.storages import BaseStorage

#: Attributes of a trial that only dropopt reads. They stay in the storage and are left out of the page.
HIDDEN = frozenset((keys.CONFIG, keys.LEASE, keys.WORKER, keys.RETRY, keys.TRACE, "efficacy"))
# Attributes of a study that only dropopt reads; the page shows them in words.
_FACTS = (keys.PORTFOLIO, keys.FACTS, keys.SITES, keys.SPACE, keys.CLASSES)
_STORED = (keys.FINGERPRINT, keys.SPACE_TEXT, keys.PLAN, keys.BASE, keys.MADE_WITH, keys.DATA, keys.CODE, keys.PRIOR)
STUDY_HIDDEN = frozenset((*_FACTS, *_STORED, keys.COMMAND))
#: Attributes of a trial that are shown first, in this order.
FIRST = (
    keys.REASON,
    keys.MESSAGE,
    keys.ANCHOR,
    keys.PORTFOLIO,
    keys.ACCURACY,
    keys.EPOCHS,
    keys.SECONDS,
    keys.PARAMETERS,
)
#: A page is made again only if this many times the duration of making it have passed.
REST = 5.0


@dataclass
class _Made:
    """A page, the state of the study that it shows, and when the next one may be made."""

    page: Page
    state: tuple[int, ...]
    again: float
    metric: str = keys.ACCURACY  # how the metric of a trial is called
    attributes: list[dict[str, str]] = field(default_factory=list)


class Overlay:
    """Adds the page of a study to the replies of optuna-dashboard.

    Args:
        app: optuna-dashboard.
        storage: Its storage, which is only read.
        hint: The option ``--storage`` as it is typed, with a space before it; or empty.
    """

    def __init__(self, app: WSGIApplication, storage: BaseStorage, hint: str = "") -> None:
        self.app = app
        self.storage = storage
        self.hint = hint
        self._pages: dict[int, _Made] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "")
        if path.rstrip("/") == "" and (study_id := self._only_study()) is not None:
            start_response("302 Found", [("Location", f"/dashboard/studies/{study_id}"), ("Content-Length", "0")])
            return []
        if environ.get("REQUEST_METHOD") != "GET":
            return self.app(environ, start_response)
        if path.startswith("/dashboard"):
            return self._changed(environ, start_response, arranged)
        found = re.fullmatch(r"/api/studies/(\d+)/*", path)
        if found is None:
            return self.app(environ, start_response)
        return self._changed(environ, start_response, lambda body: self._with_page(int(found[1]), body))

    def _only_study(self) -> int | None:
        names = searches(self.storage)
        return self.storage.get_study_id_from_name(names[0]) if len(names) == 1 else None

    def _changed(
        self, environ: WSGIEnvironment, start_response: StartResponse, change: Callable[[bytes], bytes]
    ) -> list[bytes]:
        """The reply of optuna-dashboard after ``change``; an error is passed on as it is."""
        started: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started[:] = [status, headers]
            return lambda data: None

        answer = self.app(environ, start)
        body = b"".join(answer)
        getattr(answer, "close", lambda: None)()
        status, headers = started
        if status.startswith("200"):
            body = change(body)
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]

    def _with_page(self, study_id: int, body: bytes) -> bytes:
        """The description of a study, as JSON, with its page."""
        reply = json.loads(body)
        made = self._made(study_id)
        reply["note"]["body"] = merged(reply["note"]["body"], made.page.note)
        fresh = [{"id": name, "graph_object": picture} for name, picture in made.page.figures.items()]
        others = [one for one in reply["plotly_graph_objects"] if not one["id"].startswith("dropopt-")]
        reply["plotly_graph_objects"] = fresh + sorted(others, key=lambda one: str(one["id"]))
        own = [one for one in reply["user_attrs"] if one["key"] not in STUDY_HIDDEN]
        reply["user_attrs"] = made.attributes + own
        names = {keys.ACCURACY: made.metric}
        shown = [one for one in reply["union_user_attrs"] if one["key"] not in HIDDEN]
        reply["union_user_attrs"] = [one | {"key": names.get(one["key"], one["key"])} for one in shown]
        for trial in [*reply["trials"], *reply["best_trials"]]:
            kept = [one for one in trial["user_attrs"] if one["key"] not in HIDDEN]
            kept.sort(key=lambda one: FIRST.index(one["key"]) if one["key"] in FIRST else 99)
            trial["user_attrs"] = [_readable(one) | {"key": names.get(one["key"], one["key"])} for one in kept]
        return json.dumps(reply).encode()

    def _made(self, study_id: int) -> _Made:
        """The page of a study: a stored one, unless trials have ended since and it may be made again."""
        import optuna

        with self._lock:
            study = optuna.load_study(study_name=self.storage.get_study_name_from_id(study_id), storage=self.storage)
            trials = study.get_trials(deepcopy=False)
            state = (len(trials), sum(trial.state.is_finished() for trial in trials))
            made, began = self._pages.get(study_id), time.monotonic()
            if made is None or (made.state != state and began >= made.again):
                page, attributes = build(study, self.hint), _study_attributes(study, self.hint)
                ended = time.monotonic()
                again, metric = ended + REST * (ended - began), metric_key(task_of(study).score)
                made = self._pages[study_id] = _Made(page, state, again, metric, attributes)
            return made


def _study_attributes(study: optuna.Study, hint: str) -> list[dict[str, str]]:
    """What to type next, what the study searches and where it was made, as text that can be copied."""
    shot = Snapshot.of(study)
    lines = [(f"next: {what}", line) for what, line in next_lines(shot, hint, looking=True)]
    lines += words.searched(shot) if keys.BASE in shot.attributes else []
    made = shot.attributes.get(keys.MADE_WITH)
    if isinstance(made, Mapping):
        lines.append(("made with", words.environment(made)))
    return [{"key": word, "value": text} for word, text in lines]


def _readable(attribute: dict[str, str]) -> dict[str, str]:
    """An attribute whose number, if it is one, has at most five significant digits."""
    value = attribute["value"]
    if re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", value):
        value = f"{float(value):.5g}"
    return {"key": attribute["key"], "value": value}
