"""Workers that die, stop or start together: their trials run once, on every storage."""

import signal

import fake_study
import optuna
import pytest
from outside import Outside, check_whole, finish, reporting, start, trials
from processes import wait_until

from dropopt.config import ConfigError, RunConfig
from dropopt.study.define.space import Space
from dropopt.study.store import retries
from dropopt.study.store.errors import TrialEndedError
from dropopt.study.store.lease import WorkerIdentity
from dropopt.study.store.opening import open_storage
from dropopt.study.store.queries import waiting
from dropopt.study.store.retries import MAX_ATTEMPTS
from dropopt.study.store.search_ledger import SearchLedger

GRACE = 2
#: The same where no other worker lives, which a slow machine might delay for longer.
ALONE = 0.5


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request, tmp_path):
    """A storage with one writer, and one with several."""
    return request.getfixturevalue("server").url if request.param == "postgres" else f"sqlite:///{tmp_path}/s.db"


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "s.log")


def make_ledgers(journal, count, grace=0.05):
    """Ledgers of as many workers, each with its own view of one journal."""
    space, made = Space.load("no_dropout"), []
    for number in range(count):
        study = optuna.create_study(
            study_name="fake",
            storage=open_storage(journal),
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=number),
        )
        made.append(SearchLedger(study, space, space.base(RunConfig()), 0, 10, WorkerIdentity(grace=grace)))
    return made


def tend_until(ledger, condition):
    """Let a worker tend the study until ``condition`` holds."""
    return wait_until(lambda: ledger.tend() is not None and condition(), seconds=10)


def states(journal):
    return [(trial.state.name, trial.user_attrs.get("reason")) for trial in trials(journal)]


def test_a_killed_worker_s_trial_is_taken_up_when_the_study_is_resumed(storage):
    """With a lease of another machine: the retry has the same parameters and seed."""
    process = start(storage, seconds=0.5, n_trials=2, grace=ALONE, pruner="none")
    wait_until(lambda: reporting(storage))  # of a trial that lasts seconds more, so that it is killed in the middle
    process.kill()
    finish(process)
    orphan = reporting(storage)[0]
    elsewhere = orphan.user_attrs["lease"] | {"process": {"host": "elsewhere", "pid": 1, "began": "1", "boot": "x"}}
    with Outside(storage) as study:
        study._storage.set_trial_user_attr(orphan._trial_id, "lease", elsewhere)
    code, out = finish(start(storage, seconds=0.01, n_trials=2, grace=ALONE, pruner="none"))
    assert code == 0, out
    found = trials(storage)
    check_whole(found, 2)
    orphan = found[orphan.number]
    assert (orphan.state.name, orphan.user_attrs["reason"]) == ("FAIL", "abandoned")
    assert "process 1 on elsewhere) is no longer running; attempt 1 of 3" in orphan.user_attrs["message"]
    (again,) = (trial for trial in found if trial.user_attrs.get("previous") == orphan.number)
    assert (again.user_attrs["retry_of"], again.user_attrs["attempt"]) == (orphan.number, 2)
    assert (again.params, again.user_attrs["seed"]) == (orphan.params, orphan.user_attrs["seed"])


def test_a_living_worker_takes_up_a_killed_one_s_trial(journal):
    """Within the grace period, and without exceeding the total, although the clocks differ by two hours."""
    options = {"seconds": 0.2, "n_trials": 4, "grace": GRACE, "pruner": "none"}
    one, other = (start(journal, skew=skew, **options) for skew in (-3600, 3600))
    both = wait_until(lambda: found if len(found := reporting(journal)) == 2 else [])
    begun = [trial.user_attrs["lease"]["time"] for trial in both]
    assert abs(begun[0] - begun[1]) > 7000
    one.kill()
    finish(one)
    code, out = finish(other)
    assert code == 0, out
    check_whole(trials(journal), 4)
    assert states(journal).count(("FAIL", "abandoned")) == 1


def test_a_stopped_worker_s_trial_ends_there_quietly_and_the_worker_goes_on(server):
    """SIGSTOP beyond the grace period, then SIGCONT: one result for each attempt."""
    one, other = (start(server.url, seconds=0.2, n_trials=4, grace=GRACE, pruner="none") for _ in range(2))
    wait_until(lambda: len(reporting(server.url)) == 2)
    one.send_signal(signal.SIGSTOP)
    wait_until(lambda: any(trial.user_attrs.get("reason") == "abandoned" for trial in trials(server.url)))
    one.send_signal(signal.SIGCONT)
    for process in (one, other):
        code, out = finish(process)
        assert (code, "Traceback" in out) == (0, False), out
    check_whole(trials(server.url), 4)


def test_workers_that_start_together_keep_the_total_and_draw_different_points(server):
    """Enqueued configurations run once each; 2 workers of 2 slots do not exceed the total."""
    assert fake_study.run(server.url, n_jobs=1, n_trials=1, sampler="random", pruner="none") == 0
    with Outside(server.url) as study:
        for number in range(8):
            study.enqueue_trial({"lr": 0.01 + number / 1000})
    options = {"n_trials": 14, "sampler": "random", "pruner": "none"}
    workers = [start(server.url, n_jobs=2, seconds=0.05, **options) for _ in range(2)]
    for process in workers:
        code, out = finish(process)
        assert code == 0, out
    found = trials(server.url)
    check_whole(found, 14)
    assert len({trial.user_attrs["worker"] for trial in found}) > 1
    enqueued = [t.params["lr"] for t in found if "fixed_params" in t.system_attrs and t.state.name == "COMPLETE"]
    assert len(set(enqueued)) == len(enqueued) == 8


def test_the_second_writer_of_a_sqlite_file_is_refused(tmp_path):
    """The error says what to type instead; the first run goes on, and its study can be read."""
    storage = f"sqlite:///{tmp_path}/s.db"
    one = start(storage, n_trials=200)
    wait_until(lambda: reporting(storage))
    with pytest.raises(ConfigError) as refused:
        fake_study.run(storage, n_trials=200)
    writer = f"fake_study.py (process {one.pid})"
    assert f"is in use by {writer}, and a SQLite file has one writer; wait until it ends" in str(refused.value)
    assert one.poll() is None
    one.send_signal(signal.SIGTERM)
    assert finish(one)[0] == 128 + signal.SIGTERM
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.db"]


def test_two_workers_that_claim_one_orphan(journal):
    """One of them ends it and enqueues it again; the other one changes nothing."""
    dead, one, other = make_ledgers(journal, 3)
    dead.ask()
    seen = [ledger.study.get_trials(deepcopy=False)[0] for ledger in (one, other)]
    one._abandon(seen[0])
    other._abandon(seen[1])
    assert states(journal) == [("FAIL", "abandoned"), ("WAITING", None)]


def test_a_retry_is_not_lost_with_the_worker_that_enqueues_it(journal, monkeypatch):
    """A worker dies after it has ended an orphan; others enqueue the retry, once."""
    dead, reaper, one, other = make_ledgers(journal, 4)
    dead.ask()
    with monkeypatch.context() as patch:
        patch.setattr(retries, "enqueue_again", lambda *_: None)
        tend_until(reaper, lambda: states(journal)[0] == ("FAIL", "abandoned"))
    tend_until(one, lambda: len(states(journal)) == 2)
    for _ in range(5):
        other.tend()
        other.take_up()
    assert states(journal) == [("FAIL", "abandoned"), ("WAITING", None)]


def test_duplicate_retries_run_once(journal):
    """If two workers enqueue the same retry, the second one is given back."""
    dead, one, other = make_ledgers(journal, 3)
    dead.ask()
    tend_until(one, lambda: len(states(journal)) == 2)
    retries.enqueue_again(other.study, other.study.get_trials(deepcopy=False)[0])
    assert one.ask(target=9)[0].number == 1
    assert other.ask(target=9) is None
    assert states(journal)[1:] == [("RUNNING", None), ("FAIL", "given back")]


def test_retries_are_bounded_and_visible(journal):
    """A configuration whose worker always dies is started MAX_ATTEMPTS times."""
    *mortal, survivor = make_ledgers(journal, MAX_ATTEMPTS + 1)
    for count, ledger in enumerate(mortal, 1):
        assert ledger.ask()[0].number == count - 1
        tend_until(survivor, lambda count=count: states(journal)[count - 1][0] == "FAIL")
    found = trials(journal)
    assert len(found) == MAX_ATTEMPTS
    assert [trial.user_attrs.get("attempt", 1) for trial in found] == [1, 2, 3]
    assert [trial.user_attrs.get("previous") for trial in found] == [None, 0, 1]
    assert {trial.user_attrs.get("retry_of", 0) for trial in found} == {0}
    assert len({str(trial.params) for trial in found}) == 1


def test_a_trial_that_was_killed_before_its_first_lease_is_taken_up(journal):
    """It has no parameters, so it does not run again; an enqueued trial runs again with its parameters."""
    dead, survivor = make_ledgers(journal, 2)
    dead.study.enqueue_trial({"lr": 0.05})
    dead.study.ask()
    dead.study.ask()
    tend_until(survivor, lambda: len(states(journal)) == 3)
    assert states(journal) == [("FAIL", "abandoned")] * 2 + [("WAITING", None)]
    assert trials(journal)[2].system_attrs["fixed_params"] == {"lr": 0.05}


def test_a_trial_that_is_taken_over_while_it_is_drawn_is_given_up(journal, monkeypatch):
    """Its worker was stopped for longer than the grace period before the trial had parameters: it does not fail."""
    stopped, other = make_ledgers(journal, 2)
    suggest = Space.suggest

    def taken_over(*arguments):
        other._abandon(other.study.get_trials(deepcopy=False)[-1])
        return suggest(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Space, "suggest", taken_over)
        assert stopped.ask() is None
    assert stopped.ask()[0].number == 1
    assert states(journal) == [("FAIL", "abandoned"), ("RUNNING", None)]


def test_trials_can_be_taken_up_without_waiting(journal):
    """dropopt run --reclaim; until then dropopt status counts those whose worker is known to be dead."""
    far, near, reader = make_ledgers(journal, 3, grace=1000)
    for ledger, process in ((far, {"host": "elsewhere", "boot": "x"}), (near, {"began": "1"})):
        trial, _ = ledger.ask()
        lease = trials(journal)[trial.number].user_attrs["lease"]
        trial.set_user_attr("lease", lease | {"process": lease["process"] | process})
    assert waiting(trials(journal), alone=False) == 1
    assert waiting(trials(journal), alone=True) == 2
    reader.take_up(everything=True)
    assert states(journal) == [("FAIL", "abandoned")] * 2 + [("WAITING", None)] * 2
    assert waiting(trials(journal), alone=False) == 0


def test_a_trial_that_was_ended_elsewhere_is_noticed(journal):
    """By a report, by the end of the trial, or between reports."""
    one, other = make_ledgers(journal, 2, grace=0)
    for notice in ("report", "complete", "tend"):
        trial, _ = one.ask()
        other.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if notice == "tend":
            assert one.tend() == [trial.number]
        elif notice == "report":
            with pytest.raises(TrialEndedError):
                one.report(trial, 1.0, epoch=1, epochs=2)
        else:
            with pytest.raises(TrialEndedError):
                one.complete(trial, 1.0, accuracy=0.5, best_loss=1.0, best_epoch=1, seconds=1.0)
