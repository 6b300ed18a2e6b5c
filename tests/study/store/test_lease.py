"""How workers detect that the worker of a trial has died."""

import math
import os
import platform
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from dropopt.study.store import lease
from dropopt.study.store.keys import LEASE, SEED
from dropopt.study.store.lease import Watch, WorkerIdentity, certainly_dead, describe, lease_of

READER = WorkerIdentity("reader", grace=30.0)
MACHINE = {"boot": "b", "namespace": "n"}


def running(**facts):
    """A running trial with a lease of these facts."""
    return create_trial(state=TrialState.RUNNING, user_attrs={LEASE: {"worker": "other", "count": 0} | facts})


def test_a_lease_says_who_runs_a_trial_and_for_how_long():
    """The worker renews it six times within the grace period. Each worker has an id of its own."""
    found = WorkerIdentity("me", grace=12.0, exclusive=True).lease(7)
    assert (found["worker"], found["count"], found["grace"], found["exclusive"]) == ("me", 7, 12.0, True)
    process = found["process"]
    assert (process["host"], process["pid"]) == (platform.node(), os.getpid())
    assert WorkerIdentity(grace=12.0).interval == 2.0
    assert len({WorkerIdentity().id for _ in range(9)}) == 9
    assert {len(WorkerIdentity().id) for _ in range(9)} == {12}
    assert WorkerIdentity().grace == 30.0
    assert not WorkerIdentity().exclusive
    trial = running(process=process)
    assert describe(trial) == f"its worker (process {os.getpid()} on {platform.node()})"
    assert not certainly_dead(trial, READER)
    if process.get("began"):  # where the system tells it, a process with the same id that began later is another one
        assert certainly_dead(running(process=process | {"began": "1"}), READER)
    assert describe(running(process=7)) == describe(create_trial(state=TrialState.RUNNING)) == "its worker"
    assert lease_of(create_trial(state=TrialState.RUNNING)) == {}


@pytest.mark.parametrize(
    ("facts", "exclusive", "dead"),
    [
        ({"process": {"pid": 7, "began": "1"}}, False, True),
        ({"process": {"pid": 8, "began": "1"}}, False, True),
        ({"process": {"pid": 7, "began": "2"}}, False, False),
        ({"process": {"pid": 9, "began": "1"}}, False, False),
        ({"process": {"pid": "8", "began": "1"}}, False, False),
        ({"process": {"pid": 8}}, False, False),
        ({"process": {"pid": 8, "began": "1", "boot": "other"}}, False, False),
        ({"process": {"pid": 8, "began": "1", "namespace": "other"}}, False, False),
        ({"process": {"pid": 8, "began": "1"}, "worker": "reader"}, False, False),
        ({"exclusive": True}, True, True),
        ({"exclusive": True, "worker": "reader"}, True, False),
        ({"exclusive": True}, False, False),
        ({}, True, False),
    ],
)
def test_a_worker_is_certainly_dead_if_its_process_is_gone_or_the_reader_writes_alone(
    facts, exclusive, dead, monkeypatch
):
    """On this machine since its last boot: process 7 began at 2, 8 does not exist, and 9 is one that /proc hides."""
    monkeypatch.setattr(lease, "_machine", lambda: MACHINE)
    monkeypatch.setattr(lease, "_began", {7: "2"}.get)
    monkeypatch.setattr(lease, "_is_hidden", lambda pid: pid == 9)
    if "process" in facts:
        facts = facts | {"process": MACHINE | facts["process"]}
    assert certainly_dead(running(**facts), WorkerIdentity("reader", exclusive=exclusive)) == dead
    monkeypatch.setattr(lease, "_machine", dict)  # not Linux
    assert certainly_dead(running(**facts), WorkerIdentity("reader", exclusive=exclusive)) == (dead and exclusive)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_process_is_known_by_the_time_at_which_it_began():
    """One that has ended has none, also while its parent has not asked for its exit code."""
    began = lease._began(os.getpid())
    assert began == lease._began(os.getpid()) != lease._began(os.getppid())
    assert began.isdecimal()
    with open("/proc/self/stat") as file:
        assert began == file.read().rpartition(")")[2].split()[19]
    name = "a) (b"  # a process may have any name
    code = f"import sys; open('/proc/self/comm', 'w').write({name!r}); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert int(lease._began(child.pid)) >= int(began)
        assert not lease._is_hidden(child.pid)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert lease._began(child.pid) is None, "it is a zombie"
    assert lease._began(child.pid) is None
    assert not lease._is_hidden(child.pid)
    assert lease._machine().keys() == {"boot", "namespace"}


class Trials:
    """Running trials of others, which a watch observes with a clock that the test moves."""

    def __init__(self, *leases, **options):
        self.now = 0.0
        self.study = optuna.create_study()
        self.study.add_trials([running(**one) for one in leases])
        self.watch = Watch(READER, lambda: self.now)

    def dead(self, seconds, own=()):
        """The numbers of the trials whose worker is dead, after so many seconds."""
        self.now += seconds
        return [trial.number for trial in self.watch.observe(self.study.get_trials(deepcopy=False), own)]

    def change(self, number, key, value):
        """Write an attribute of a trial."""
        self.study._storage.set_trial_user_attr(self.study.trials[number]._trial_id, key, value)


def test_a_worker_is_dead_after_its_own_grace_period_without_a_sign_of_life():
    """Or after the reader's, if its lease has no sensible one; own trials and those that have ended are left out."""
    graces = (10.0, 60, None, 0, -5.0, math.inf, math.nan, "9")
    trials = Trials(*({} if grace is None else {"grace": grace} for grace in graces))
    seen = [(trials.dead(5.0, own=[0]) if trials.now == 0 else trials.dead(5.0)) for _ in range(14)]
    first = {number: 5.0 * (1 + next(i for i, found in enumerate(seen) if number in found)) for number in range(8)}
    assert first == {0: 20.0, 1: 65.0, **dict.fromkeys(range(2, 8), 35.0)}
    trials.study.tell(0, 1.0)
    assert 0 not in trials.dead(5.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda study, number: study.change(number, LEASE, {"worker": "other", "count": 1}),
        lambda study, number: study.change(number, LEASE, {"worker": "next", "count": 0}),
        lambda study, number: study.change(number, SEED, 1),
        lambda study, number: study.study._storage.set_trial_system_attr(number, "a", 1),
        lambda study, number: study.study._storage.set_trial_intermediate_value(number, 1, 0.5),
        lambda study, number: study.study._storage.set_trial_param(
            number, "x", 0.5, optuna.distributions.FloatDistribution(0, 1)
        ),
    ],
)
def test_whatever_changes_of_a_trial_is_a_sign_of_life(change):
    """The grace period begins anew. The time in the lease is for people, and is no sign."""
    trials = Trials({}, {})
    assert [trials.dead(10.0) for _ in range(3)] == [[]] * 3
    change(trials, 1)
    assert [trials.dead(10.0) for _ in range(4)] == [[0], [0], [0], [0, 1]]
    trials = Trials({})
    for _ in range(3):
        assert trials.dead(10.0) == []
        trials.change(0, LEASE, {"worker": "other", "count": 0, "time": trials.now})
    assert trials.dead(10.0) == [0]


def test_time_in_which_nobody_could_renew_a_lease_counts_little():
    """While the reader was stopped: at most two of the six beats of its grace period. After an outage, none of it."""
    trials = Trials({})
    assert [trials.dead(1000.0) for _ in range(4)] == [[], [], [], [0]]
    trials = Trials({})
    assert [trials.dead(9.0) for _ in range(4)] == [[]] * 4
    trials.watch.restart()
    assert [trials.dead(9.0) for _ in range(5)] == [[], [], [], [], [0]]
