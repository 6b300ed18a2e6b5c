"""What the worker sends to trainers, stores and shows, call by call, for events that a script gives."""

import shutil
import signal
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dropopt.config import ConfigError, RunConfig
from dropopt.study.run import running, worker
from dropopt.study.run.errors import StudyError
from dropopt.study.run.failures import FIRST_FAILURES, FIRST_STARTS, LATER_FAILURES, LATER_STARTS
from dropopt.study.run.messages import Done, Failed, Prepare, Ready, Report, Stopped, Train
from dropopt.study.run.slots import Died, Event
from dropopt.study.store.errors import StorageError, TrialEndedError

BASE = RunConfig()
READY = Ready(10, {"train": "a"}, [])


class _Theatre:
    """The pool, ledger, listener and signals of a worker at once. Each call is a line of ``log``.

    Args:
        script: Pairs of a slot and what its trainer sends; numbers of seconds that pass; and functions of the theatre.
            After the last entry, a signal ends the study.
        size: The number of slots.
        trials: The number of trials that the ledger still wants.
    """

    def __init__(self, script, size=1, trials=1):
        self.script, self.size, self.left = list(script), size, trials
        self.log, self.now, self.asked, self.ticks, self.waits = [], 1000.0, 0, 0, []
        self.received = self.signal_after_death = None
        self.lost, self.prune_at, self.ended_elsewhere, self.not_finite = [], (), set(), False
        self.invalid, self.given_back, self.others, self.gone = set(), set(), 0, False

    def say(self, *words):
        self.log.append(" ".join(str(word) for word in words if word != ""))

    # -- signals

    @contextmanager
    def guarding(self, on_first, on_second):
        self.on_first, self.on_second = on_first, on_second
        yield

    # -- executor; both have wait()

    def wait(self, seconds):
        self.waits.append(seconds)
        if seconds == worker.SIGNAL_SECONDS:
            self.received = self.signal_after_death
            return self.received is not None
        step = self.script.pop(0) if self.script else lambda stage: setattr(stage, "received", signal.SIGTERM)
        if isinstance(step, tuple):
            return Event(*step)
        if callable(step):
            step(self)
        else:
            self.now += step
        return None

    def send(self, slot, message):
        if isinstance(message, Train):
            path = message.checkpoint and Path(message.checkpoint)
            if path:
                path.parent.mkdir(exist_ok=True)
                path.write_text("")
            names = [Path(file or "").name.rpartition("-")[2] for file in (message.checkpoint, message.weights)]
            self.say(f"{slot}: train {message.trial}, seed {message.run.train.seed},", *names)
        elif isinstance(message, Prepare):
            self.say(f"{slot}: prepare", "" if message.run is BASE else "another run")
        else:
            self.say(f"{slot}: stop {message.trial}")

    def wake(self):
        self.say("wake")

    def kill(self):
        self.say("kill")

    def replace(self, slot):
        self.say(f"{slot}: replace")

    # -- ledger

    def open(self, ready):
        self.say("open", *ready.fingerprint.values())
        return self

    def wants(self, target):
        assert target == 9
        return self.left > 0

    def ask(self, target):
        assert target == 9
        self.left -= 1
        number, self.asked = self.asked, self.asked + 1
        self.say("ask")
        if number in self.given_back:
            return None
        run = BASE.model_copy(update={"train": BASE.train.model_copy(update={"seed": number})})
        return SimpleNamespace(number=number), None if number in self.invalid else run

    def why_not_valid(self, trial):
        assert trial.number in self.invalid
        return "p is 2"

    def checkpoint_of(self, number):
        return "s", 10 + number

    def others_running(self):
        self.others -= 1
        return self.others >= 0

    def tend(self):
        self.say("tend") if self.log[-1] == "ask" else None
        lost, self.lost = self.lost, []
        return lost

    def report(self, trial, value, *, epoch, epochs):
        self.say(f"report {trial.number}: {value} at {epoch}/{epochs}")
        if trial.number in self.ended_elsewhere:
            raise TrialEndedError
        return epoch in self.prune_at

    def prune(self, trial, *, accuracy, seconds, applied):
        self.say(f"prune {trial.number}: {accuracy} {seconds} {applied}")

    def complete(self, trial, value, *, history, scores, **facts):
        self.say(f"complete {trial.number}: {value}", *facts.values(), scores)
        self.history = history
        if trial.number in self.ended_elsewhere:
            raise TrialEndedError
        return "NotFinite" if self.not_finite else ""

    def fail(self, trial, error, message, trace):
        self.say(f"fail {trial.number}: {error}: {message}", trace)
        return "out of memory" if error == "MemoryError" else error

    def interrupt(self, trial, reason):
        if self.gone:
            raise StorageError("it is gone")
        self.say(f"interrupt {trial.number}: {reason}")

    # -- listener

    def started(self, slot, trial):
        self.say(f"{slot}: started {trial}")

    def reported(self, slot, trial, report):
        self.say(f"{slot}: reported {trial} at {report.epoch}")

    def ended(self, slot, trial, failure=""):
        self.say(f"{slot}: ended {trial}", failure)

    def restarted(self, slot, trial, reason):
        self.say(f"{slot}: restarted {trial}: {reason}")

    def stalled(self, slot, trial, seconds, longest):
        self.say(f"{slot}: stalled {trial}: {seconds}, {longest}")

    def moved(self, slot, to):
        self.say(f"{slot}: moved to {to}")

    def tick(self):
        self.ticks += 1


def report(trial, epoch, rate=0.25):
    numbers = {"train_loss": 1.0, "val_loss": 2.0, "val_accuracy": 0.5, "smoothed_loss": 3.0, "objective": 4.0}
    return Report(trial, epoch, 3, **numbers, rates={"a": rate})


def done(trial):
    return Done(trial, 4.0, 2, 2.5, 0.75, 60.5, {"ece": 0.5})


@pytest.fixture(name="play")
def _play(tmp_path, monkeypatch):
    """A function that lets a worker play a script, and returns the stage."""

    def play(*script, size=1, trials=1, checkpoints=False, expect=None, prelude=True, stage=None, **options):
        script = [(0, READY), *script] if prelude else script
        folder = tmp_path / "c"
        shutil.rmtree(folder, ignore_errors=True)
        theatre = _Theatre(script, size, trials)
        vars(theatre).update(stage or {})
        monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: theatre.now))
        monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: theatre.now))
        make = lambda *given: running.Running(*given, began=theatre.now, _last=theatre.now)  # noqa: E731
        monkeypatch.setattr(worker, "Running", make)
        options |= {"checkpoints": folder} if checkpoints else {}
        made = worker.Worker(theatre, theatre.open, theatre, base=BASE, n_trials=9, signals=theatre, **options)
        with pytest.raises(type(expect), match=f"^{expect}$") if expect else nullcontext():
            made.run()
        assert made.signal == theatre.received
        assert len(theatre.waits) - theatre.waits.count(worker.SIGNAL_SECONDS) == theatre.ticks + bool(expect)
        if prelude and theatre.log[:2] == ["0: prepare", "open a"]:
            del theatre.log[:2]
        theatre.files = sorted(path.name.rpartition("-")[2] for path in folder.glob("*"))
        return theatre

    return play


BEGUN = ["ask", "tend", "0: started 0", "0: train 0, seed 0,"]


def test_a_study_from_beginning_to_end(play):
    """Other slots begin after the first has data; each trial is reported, completed, and followed by the next."""
    script = [(0, READY), (0, report(0, 1)), (1, READY), (0, report(0, 2, 0.5)), 7.0, (0, done(0)), (1, done(1))]
    paths = {"weights": lambda number: Path(f"/w/{number}.st"), "checkpoints": True}
    played = play(*script, (0, done(2)), size=2, trials=3, prelude=False, **paths)
    assert played.log == [
        "0: prepare",
        "open a",
        "1: prepare",
        *["ask", "tend", "0: started 0", "0: train 0, seed 0, 10.pt 0.st"],
        *["report 0: 4.0 at 1/3", "0: reported 0 at 1"],
        *["ask", "tend", "1: started 1", "1: train 1, seed 1, 11.pt 1.st"],
        *["report 0: 4.0 at 2/3", "0: reported 0 at 2"],
        *["complete 0: 4.0 0.75 2.5 2 60.5 0.375 {'ece': 0.5}", "0: ended 0"],
        *["ask", "tend", "0: started 2", "0: train 2, seed 2, 12.pt 2.st"],
        *["complete 1: 4.0 0.75 2.5 2 60.5 None {'ece': 0.5}", "1: ended 1"],
        *["complete 2: 4.0 0.75 2.5 2 60.5 None {'ece': 0.5}", "0: ended 2"],
        "kill",
    ]
    assert played.files == []
    assert set(played.waits) == {worker.TICK}


def test_code_that_is_edited_while_a_study_runs(play):
    """A new trainer imports the new source; then all trials that start use it, and those that run go on."""
    old, new = (replace(READY, code={"mine": digest, "other": "x"}) for digest in "ab")
    died, told = Died("its process was killed (signal 9)"), []
    script = [(0, old), (1, old), (1, died), (1, new), (0, done(0)), (0, new), (1, done(1))]
    played = play(*script, size=2, trials=3, prelude=False, on_new_code=told.append)
    assert told == [["mine"]]
    begin = played.log.index("0: ended 0") + 1
    assert played.log[begin : begin + 4] == ["0: replace", "0: prepare", "ask", "tend"]
    assert played.log.count("1: replace") == 1, "the new trainer is kept"


def test_messages_of_other_trials_and_repeated_epochs_are_ignored(play):
    """A repeated epoch replaces the first in the history only, which is in order; it is not stored or shown again."""
    again = report(0, 2, rate=0.75)
    others = [(0, report(3, 1)), (0, done(3)), (1, done(0))]
    played = play(*others, (0, report(0, 2)), (0, report(0, 1)), (0, again), (0, done(0)), size=2)
    assert played.log[len(BEGUN) + 1 :] == [
        *["report 0: 4.0 at 2/3", "0: reported 0 at 2"],
        *["complete 0: 4.0 0.75 2.5 2 60.5 0.5 {'ece': 0.5}", "0: ended 0", "kill"],
    ]
    assert played.history == running.history_from([report(0, 1), again])


@pytest.mark.parametrize(
    ("last", "ending"), [(Stopped(0), []), (done(0), []), (Failed(0, "E", "m", "", ""), []), (Died("gone"), [1])]
)
def test_a_pruned_trial_ends_once(play, last, ending):
    """It is stored at its report; whatever its trainer sends next only frees the slot. Its checkpoint may stay."""
    script = [(0, report(0, 1)), 7.0, (0, report(0, 2)), (0, report(0, 3)), (0, last)]
    for options, files in (({}, []), ({"keep_checkpoints": 1}, ["10.kept"])):
        played = play(*script, checkpoints=True, stage={"prune_at": (2,)}, **options)
        assert played.log[4:] == [
            *["report 0: 4.0 at 1/3", "0: reported 0 at 1"],
            *["report 0: 4.0 at 2/3", "prune 0: 0.5 7.0 0.25", "0: stop 0", "0: reported 0 at 2"],
            *(["0: replace", "0: prepare"] if ending else []),
            *["0: ended 0", "kill"],
        ]
        assert played.files == files


@pytest.mark.parametrize("seen", ["report", "tend", "complete"])
def test_a_trial_that_another_process_has_ended(play, seen):
    """Its trainer is stopped once, nothing is stored, and its checkpoint stays for whoever continues it."""
    found = {
        "report": [(0, report(0, 1)), lambda stage: stage.lost.append(0)],
        "tend": [lambda stage: stage.lost.extend([0, 5]), lambda stage: stage.lost.append(0)],
        "complete": [(0, done(0))],
    }[seen]
    rest = [] if seen == "complete" else [(0, report(0, 2)), (0, done(0))]
    stage = {"ended_elsewhere": set() if seen == "tend" else {0}}
    played = play(*found, *rest, checkpoints=True, keep_checkpoints=2, stage=stage)
    calls = {"report": ["report 0: 4.0 at 1/3", "0: stop 0"], "tend": ["0: stop 0"]}
    calls["complete"] = ["complete 0: 4.0 0.75 2.5 2 60.5 None {'ece': 0.5}"]
    assert played.log[4:] == [*calls[seen], "0: ended 0 it was ended by another process", "kill"]
    assert played.files == ["10.pt"]


def test_failures_are_stored_and_shown(play):
    """The reason and the message; lack of memory has one reason and one text, and leaves a checkpoint to continue."""
    played = play(
        (0, Failed(0, "ValueError", "too high", "f.py", "trace")),
        (0, Failed(1, "RuntimeError", "CUDA", "f.py", "trace", out_of_memory=True)),
        (0, Failed(2, "MemoryError", "out of memory", "f.py", "trace")),
        trials=3,
        checkpoints=True,
        keep_checkpoints=5,
    )
    assert [line for line in played.log if "fail" in line or "ended" in line] == [
        *["fail 0: ValueError: too high trace", "0: ended 0 ValueError: too high"],
        *["fail 1: out of memory: CUDA trace", "0: ended 1 out of memory: CUDA"],
        *["fail 2: MemoryError: out of memory trace", "0: ended 2 out of memory"],
    ]
    assert played.files == ["11.kept", "12.kept"]


def test_a_result_that_is_not_finite_is_a_failure(play):
    """Its checkpoint is removed, where that of a complete trial stays on request."""
    for bad, files in ((True, []), (False, ["10.pt"])):
        played = play((0, done(0)), checkpoints=True, keep=True, keep_checkpoints=1, stage={"not_finite": bad})
        assert played.log[-2:] == ["0: ended 0 NotFinite" if bad else "0: ended 0", "kill"]
        assert played.files == files


@pytest.mark.parametrize(
    ("message", "expect"),
    [
        (lambda n: Failed(n, "E", "m", "", ""), "the same error: E: m"),
        (done, "the same error: NotFinite: the loss is not finite"),
        (None, "the same error: ConfigError: the configuration is not valid: p is 2"),
    ],
)
def test_failures_in_a_row_end_the_study(play, message, expect):
    """Of trainers, of results, and of configurations; a trial that completes or is pruned begins the count again."""
    n = FIRST_FAILURES
    stage = {"not_finite": True, "invalid": set() if message else set(range(n))}
    script = [(0, message(number)) for number in range(n)] if message else []
    error = StudyError(f"the study stops because {n} trials in a row failed with {expect}")
    played = play(*script, trials=2 * n, expect=error, stage=stage)
    assert played.asked == n
    assert sum("0: ended" in line for line in played.log) == n
    if message is None:
        assert played.log[2:4] == ["0: started 0", "0: ended 0 its configuration is not valid: p is 2"]


@pytest.mark.parametrize("good", [done, lambda number: report(number, 1)])
def test_a_good_trial_begins_the_count_of_failures_again(play, good):
    """Also one that is pruned; then more failures are allowed. So does another cause."""
    n, more = FIRST_FAILURES - 1, LATER_FAILURES

    def failed(name, count, first):
        return [(0, Failed(number, name, "m", "", "")) for number in range(first, first + count)]

    script = [
        *failed("E", n, 0),
        *failed("F", n, n),
        (0, good(2 * n)),
        (0, Stopped(2 * n)),
        *failed("F", more, 2 * n + 1),
    ]
    error = StudyError(f"the study stops because {more} trials in a row failed with the same error: F: m")
    played = play(*script, trials=99, expect=error, stage={"prune_at": (1,)})
    assert (played.asked, played.script) == (2 * n + 1 + more, [])


def test_a_trainer_that_dies_is_replaced_and_its_trial_continues(play):
    """From its checkpoint, where there is one; the duration is then the whole one, and the third death is the last."""
    died = Died("it fell", signal=11)
    script = [(0, report(0, 1)), 5.0, (0, died), 2.0, (0, READY)]
    again = ["0: replace", "0: prepare"]
    for checkpoints, lost in ((True, ""), (False, "; it begins again, because no --checkpoints DIR is given")):
        played = play(*script, (0, done(0)), checkpoints=checkpoints)
        assert played.log[6:] == [
            *[*again, f"0: restarted 0: it fell{lost}", played.log[3]],
            *["complete 0: 4.0 0.75 2.5 2 7.0 0.25 {'ece': 0.5}", "0: ended 0", "kill"],
        ]
        assert set(played.waits) == {worker.TICK}
    played = play(*[(0, died), (0, READY)] * 3, checkpoints=True, keep_checkpoints=1)
    assert played.log[-5:] == [*again, "fail 0: ProcessDied: it fell", "0: ended 0 ProcessDied: it fell", "kill"]
    assert played.files == []


@pytest.mark.parametrize(
    ("died", "times", "reason", "files"),
    [
        (Died("it fell", signal=9), 3, "killed (signal 9), probably out of memory", []),
        (Died("too big", out_of_memory=True), 1, "out of memory", ["10.kept"]),
        (Died("it fell"), 3, "ProcessDied", []),
    ],
)
def test_the_reason_for_the_last_death(play, died, times, reason, files):
    """Lack of memory would repeat, so that its trial is not tried again."""
    played = play(*[(0, died), (0, READY)] * times, checkpoints=True, keep_checkpoints=1)
    assert [line for line in played.log if line.startswith("fail")] == [f"fail 0: {reason}: {died.reason}"]
    assert played.files == files


def test_a_signal_to_the_trainer_may_be_one_to_all_processes(play):
    """The worker waits for its own: if it arrives the trial is interrupted, else the trainer is replaced."""
    died = Died("killed", signal=int(signal.SIGTERM))
    played = play((0, died), checkpoints=True, stage={"signal_after_death": signal.SIGTERM})
    assert played.log[4:] == ["kill", "interrupt 0: by SIGTERM", "0: ended 0"]
    assert played.files == ["10.pt"]
    played = play((0, died), (0, READY), (0, done(0)))
    assert played.log[4:7] == ["0: replace", "0: prepare", played.log[6]]
    assert played.waits.count(worker.SIGNAL_SECONDS) == 1


def test_trainers_that_are_never_ready_end_the_study(play):
    """Lost machines are not the trainers' fault. Once a trainer has been ready, the cause is outside: more may die."""
    died = [(0, Died("no memory"))] * (FIRST_STARTS - 1)
    lost = [(0, Died("no node", lost_machine=True))] * 9
    error = StudyError("child processes die before they can train: no memory")
    played = play(*died, *lost, *died[:1], prelude=False, expect=error)
    assert played.log == ["0: prepare", *["0: replace", "0: prepare"] * (FIRST_STARTS + 9), "kill"]
    later = [*died, (0, READY), *died[:1] * LATER_STARTS]  # the first of these deaths is that of a trial
    played = play(*later, (0, READY), (0, done(0)), prelude=False)
    assert played.log[-2:] == ["0: ended 0", "kill"]
    played = play(*later, *died[:1], (0, done(0)), prelude=False, expect=error)
    assert played.script == [(0, done(0))]


def test_a_trial_moves_to_a_slot_that_is_ready(play):
    """If its own trainer does not come back; a pruned one does not move, and the last event was not a new trial."""
    script = [(1, READY), (0, Died("gone")), (1, done(1))]
    played = play(*script, (1, done(0)), size=2, trials=2, checkpoints=True)
    where = played.log.index("1: ended 1")
    assert played.log[where + 1 : where + 3] == ["0: moved to 1", "1: train 0, seed 0, 10.pt"]
    assert played.log[-2:] == ["1: ended 0", "kill"]
    assert played.files == []


def test_a_trial_has_a_time_limit(play):
    """Its trainer is replaced, its checkpoint can be continued, and the next trial waits for the new trainer."""
    limits = worker.Limits(trial_timeout=10.0)
    played = play(10.0, 0.5, (0, READY), trials=2, limits=limits, checkpoints=True, keep_checkpoints=1)
    assert played.log[4:] == [
        *["0: replace", "0: prepare", "fail 0: time limit: it did not end within 10 s"],
        "0: ended 0 time limit: it did not end within 10 s",
        *["ask", "tend", "0: started 1", "0: train 1, seed 1, 11.pt"],
        *["kill", "interrupt 1: by SIGTERM", "0: ended 1"],
    ]
    assert played.files == ["10.kept", "11.pt"]


def test_a_trial_that_may_hang_is_named_once(play):
    """After five minutes, or ten of its longest epochs, without a report; a pruned one is ended anyway."""
    for epoch, limit in ((4.0, 300.0), (50.0, 500.0)):
        played = play(epoch, (0, report(0, 1)), limit, 1.0, 1000.0, (0, report(0, 2)), (0, done(0)))
        assert [line for line in played.log if "stalled" in line] == [f"0: stalled 0: {limit + 1.0}, {epoch}"]
    for script in ((1000.0,), (4.0, (0, report(0, 1)), 300.0, (0, report(0, 2)), 299.0)):
        assert not any("stalled" in line for line in play(*script).log)
    assert not any("stalled" in line for line in play(4.0, (0, report(0, 1)), 301.0, stage={"prune_at": (1,)}).log)


def test_a_session_has_a_time_limit(play):
    """No trial begins after it; a running one may end, unless it has sent nothing for a minute since then."""
    limits = worker.Limits(timeout=100.0)
    played = play(99.0, 1.0, (0, report(0, 1)), (0, done(0)), trials=2, limits=limits)
    assert (played.asked, played.log[-2:]) == (1, ["0: ended 0", "kill"])
    played = play(100.0, running.GRACE_SECONDS, 0.5, checkpoints=True, limits=limits)
    reason = "the study's time limit has passed, and the trial has stopped reporting"
    assert played.log[4:] == ["0: replace", "0: prepare", f"interrupt 0: {reason}", "0: ended 0", "kill"]
    assert (played.files, played.script) == (["10.pt"], [])
    for silence, end in ((200.0, "complete 0"), (200.5, "interrupt 0")):  # twice the longest epoch
        epochs = [100.0, (0, report(0, 1)), 5.0, (0, report(0, 2))]
        played = play(*epochs, silence, (0, done(0)), limits=worker.Limits(timeout=101.0))
        assert played.log[-3].startswith(end)
    again = [60.0, (0, Died("it fell")), 59.5, (0, READY), (0, done(0))]
    played = play(*again, limits=worker.Limits(timeout=10.0))
    assert played.log[-3].startswith("complete 0"), "the new process has a minute too"
    late = StudyError("the data could not be loaded within the time limit; give a longer --timeout")
    played = play(100.0, running.GRACE_SECONDS - 0.5, 0.5, prelude=False, limits=limits, expect=late)
    assert (played.log, played.script) == (["0: prepare", "kill"], [])


def test_a_pruned_trial_that_does_not_stop_is_ended(play):
    """After a minute without a report."""
    script = [(0, report(0, 1)), running.GRACE_SECONDS, 0.5]
    played = play(*script, checkpoints=True, stage={"prune_at": (1,)})
    assert played.log[-4:] == ["0: replace", "0: prepare", "0: ended 0", "kill"]
    assert (played.files, played.script) == ([], [])
    played = play(*script, checkpoints=True, stage={"ended_elsewhere": {0}})
    ended = "0: ended 0 it was ended by another process"
    assert played.log[-4:] == ["0: replace", "0: prepare", ended, "kill"]
    assert (played.files, played.script) == (["10.pt"], [])


def test_an_idle_worker_waits_for_the_trials_of_others(play):
    """They may have to be run again; after the time limit it does not wait."""
    played = play(1.0, 1.0, 1.0, 1.0, trials=0, stage={"others": 3})
    assert (played.log, played.script) == (["kill"], [1.0])
    played = play(1.0, 1.0, 1.0, 1.0, trials=0, stage={"others": 3}, limits=worker.Limits(timeout=1.0))
    assert played.script == [1.0, 1.0, 1.0]


def test_a_trial_that_was_given_back_is_none(play):
    """The slot stays idle until the study wants another one."""
    played = play((0, done(1)), trials=2, stage={"given_back": {0}})
    assert played.log[:6] == ["ask", "tend", "ask", "tend", "0: started 1", "0: train 1, seed 1,"]
    assert played.log[-2:] == ["0: ended 1", "kill"]


def test_the_end_of_a_worker_interrupts_its_trials(play):
    """Pruned ones have ended already; a storage that is gone keeps its trials; signals reach the executor."""

    def signals(stage):
        stage.on_first()
        stage.on_second()
        stage.received = signal.SIGINT

    script = [(1, READY), (2, READY), (1, report(1, 1))]
    played = play(*script, signals, size=3, trials=3, checkpoints=True, stage={"prune_at": (1,)})
    assert played.log[-8:] == [
        *["wake", "kill", "kill", "interrupt 0: by SIGINT", "0: ended 0", "1: ended 1"],
        *["interrupt 2: by SIGINT", "2: ended 2"],
    ]
    assert played.files == ["10.pt", "12.pt"]
    assert play(signals, stage={"gone": True}).log[-3:] == ["wake", "kill", "kill"]

    differ = Ready(10, {"train": "b"}, [])
    error = ConfigError("the data differ between loads; seed any randomness in the function that returns them")
    played = play((1, differ), size=2, expect=error)
    assert played.log[-3:] == ["kill", "interrupt 0: the study stopped", "0: ended 0"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ConfigError", ConfigError("m")),
        ("OSError", StudyError("the study cannot begin: OSError: m \\(f.py, line 3\\)")),
    ],
)
def test_data_that_cannot_be_loaded_end_the_study(play, name, error):
    """A mistake of the user is reported as such."""
    played = play((0, Failed(None, name, "m", "f.py, line 3", "")), prelude=False, expect=error)
    assert played.log == ["0: prepare", "kill"]
