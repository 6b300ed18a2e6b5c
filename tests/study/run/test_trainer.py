"""What a trainer answers to each message, in this process."""

import io
import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from dropopt.config import RunConfig
from dropopt.facts import Facts
from dropopt.study.run import trainer as module
from dropopt.study.run.messages import (
    Done,
    Failed,
    Prepare,
    Ready,
    Report,
    Stopped,
    Train,
    decode_from_trainer,
    encode,
)
from dropopt.study.run.trainer import MESSAGE_CHARACTERS, TRACE_CHARACTERS, Trainer, failure

RUN = RunConfig.parse({"train": {"lr": 0.5}})


@pytest.fixture(name="answers")
def _answers(monkeypatch):
    """A function ``answers(message, load, train)`` that returns the messages of a trainer with these functions."""

    def answers(message, load=None, train=None, before=lambda trainer: None):
        monkeypatch.setitem(sys.modules, "given", SimpleNamespace(load=load, train=train))
        sink = io.StringIO()
        trainer = Trainer(io.StringIO(), sink, load="given:load", train="given:train")
        before(trainer)
        trainer._handle(message)
        return [decode_from_trainer(line) for line in sink.getvalue().splitlines()]

    return answers


def report(epoch, **more):
    losses = {"train_loss": 1.5, "val_loss": 2.5, "smoothed_loss": 3.5, "objective": 4.5}
    return SimpleNamespace(epoch=epoch, epochs=3, val_accuracy=0.5, **losses, **more)


def test_what_is_ready(answers):
    """Classes, hashes, notices, places, complexity and sizes of the data that ``load`` returns for the run."""
    data = SimpleNamespace(classes=("a", "b"), fingerprint={"train": "x"})
    given = {"sites": {"auto": ["c"]}, "complexity": 0.25, "notices": ("n",)}
    runs = []
    for facts in ({}, {"facts": Facts({"train": 8}, [1, 2, 2], 2, 0.5, 9, ["c"], 0)}):
        load = lambda run, facts=facts: runs.append(run) or SimpleNamespace(data=data, **given, **facts)  # noqa: E731
        expected = Ready(2, {"train": "x"}, ["n"], {"auto": ["c"]}, 0.25, facts.get("facts"))
        assert answers(Prepare(RUN), load) == [expected]
    assert runs == [RUN, RUN]


def test_a_trial_is_reported_and_done(answers, monkeypatch):
    """Each epoch, those before the checkpoint first, and the result; the duration is that of training."""
    clock = iter((10.0, 12.3456))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    rates = {"rates": [{"site": "s", "applied": 0.5, "other": 1}], "weights": {"pfid": 0.25}}
    seen = []

    def train(run, on_epoch, **options):
        seen.append((run, options.get("checkpoint")))
        if options:
            options["on_resume"]([report(1)])
        on_epoch(report(2, **rates))
        scores = {"ece": torch.tensor(0.5)}
        return SimpleNamespace(objective=1, best_epoch=2, best_val_loss=3, best_val_accuracy=0.75, scores=scores), 0, 0

    numbers = (1.5, 2.5, 0.5, 3.5, 4.5)
    second = Report(7, 2, 3, *numbers, {"s": 0.5}, {"pfid": 0.25})
    done = Done(7, 1.0, 2, 3.0, 0.75, 2.346, {"ece": 0.5})
    assert answers(Train(7, RUN), train=train) == [second, done]
    clock = iter((0.0, 2.346))
    assert answers(Train(7, RUN, "/tmp/c.pt"), train=train) == [Report(7, 1, 3, *numbers), second, done]
    assert [(run, str(path)) for run, path in seen] == [(RUN, "None"), (RUN, "/tmp/c.pt")]


def test_a_trial_stops_after_a_step_or_an_epoch(answers):
    """A request to stop the last trial does not stop this one; the hook on steps is gone afterwards."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    optimizer, seen = torch.optim.SGD([parameter], lr=1.0), []

    def train(run, on_epoch):
        assert not trainers[-1]._stop
        seen.append("began")
        trainers[-1]._stop = True
        optimizer.step() if by == "step" else on_epoch(report(1))
        seen.append("went on")

    def before(trainer):
        trainer._stop = True
        trainers.append(trainer)

    trainers = []
    for by in ("step", "epoch"):
        *reports, last = answers(Train(7, RUN), train=train, before=before)
        assert last == Stopped(7)
        assert len(reports) == (by == "epoch")
    assert seen == ["began"] * 2
    optimizer.step()


class Panic(BaseException):
    """No ``Exception``, as the panics of packages in Rust."""


@pytest.mark.parametrize(
    "error", [ValueError("x" * 9000), SystemExit(), MemoryError("no"), KeyboardInterrupt(), Panic()]
)
def test_an_error_ends_the_trial_alone(answers, error):
    """Its class, message, file and line, and the end of the traceback; errors of the preparation have no trial."""

    def fail(*_):
        raise error

    line = fail.__code__.co_firstlineno + 1
    for message, trial in ((Train(7, RUN), 7), (Prepare(RUN), None)):
        (found,) = answers(message, load=fail, train=fail)
        assert isinstance(found, Failed)
        assert (found.trial, found.error) == (trial, type(error).__name__)
        assert found.message == (str(error)[:MESSAGE_CHARACTERS] or type(error).__name__)
        assert found.where == f"{__file__}, line {line}"
        assert len(found.trace) <= TRACE_CHARACTERS
        assert found.out_of_memory == isinstance(error, MemoryError)
    assert failure(None, KeyError("a")).where == "nowhere"
    assert failure(3, KeyError("a")).trace == "KeyError: 'a'\n"


def test_an_error_without_a_message_of_its_own_is_described(answers):
    """An error of a user's class, whose ``__str__`` fails, ends the trial alone too."""

    class NoText(Exception):
        def __str__(self):
            return self.args[3]

    def fail(*_):
        raise NoText

    (found,) = answers(Train(7, RUN), train=fail)
    assert (found.error, found.message) == (
        "NoText",
        "its message cannot be shown, because __str__ raised IndexError",
    )


def test_messages_are_read_in_order(monkeypatch):
    """A stop concerns the running trial only. The process ends with its owner, or at a line that is no message."""
    ends = []
    monkeypatch.setattr(module.os, "_exit", lambda code: ends.append(code))
    for lines, stopped, codes in (
        ('{"trial": 7, "kind": "stop"}\n', True, [0]),
        ('{"trial": 6, "kind": "stop"}\n', False, [0]),
        ("nonsense\n", False, [1, 0]),
    ):
        ends.clear()
        source = io.StringIO(encode(Prepare(RUN)) + encode(Train(7, RUN)) + lines)
        trainer = Trainer(source, io.StringIO(), load="a:b", train="a:b")
        trainer._trial = 7
        trainer._listen()
        assert [trainer._work.get_nowait(), trainer._work.get_nowait()] == [Prepare(RUN), Train(7, RUN)]
        assert (trainer._stop, ends) == (stopped, codes)


def test_the_process_of_a_trainer(monkeypatch):
    """Messages go through its own copies of the pipes; what a model prints or reads cannot mix with them."""
    (theirs, ours), (answers, sink) = os.pipe(), os.pipe()
    kept = os.dup(0), os.dup(1), os.dup(2)
    errors, written = os.pipe()
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(module.memory, "prefer_as_victim", lambda: seen.append("victim"))
    monkeypatch.setattr(sys, "argv", ["trainer", "a:load", "b:train"])
    seen = []

    class Fake:
        def __init__(self, source, sink, *, load, train):
            seen.extend((source.readline(), load, train))
            self.source, self.sink = source, sink

        def run(self):
            os.write(1, b"printed")
            seen.extend((os.read(0, 9), signal.getsignal(signal.SIGINT)))
            with self.source, self.sink:
                self.sink.write("ä\n")

    monkeypatch.setattr(module, "Trainer", Fake)
    os.write(ours, "ü\n".encode())
    for number, descriptor in enumerate((theirs, sink, written)):
        os.dup2(descriptor, number)
    try:
        module.main()
    finally:
        signal.signal(signal.SIGINT, handler)
        for number, copy in enumerate(kept):
            os.dup2(copy, number)
            os.close(copy)
    assert seen == ["victim", "ü\n", "a:load", "b:train", b"", signal.SIG_IGN]
    assert (os.read(answers, 99), os.read(errors, 99)) == ("ä\n".encode(), b"printed")
    for descriptor in (theirs, ours, answers, sink, errors, written):
        os.close(descriptor)


def test_a_trainer_works_until_its_owner_ends(monkeypatch):
    """It imports what loads the data before the first message, and handles messages one after the other."""
    log, end = [], threading.Event()

    class Trainer(module.Trainer):
        def _listen(self):
            log.append(("listens", threading.current_thread().daemon))
            for message in (Prepare(RUN), Train(7, RUN)):
                self._work.put(message)

        def _handle(self, message):
            self._trial = 7
            log.append(message)

    def free():
        log.append(trainer._trial)
        if len(log) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_free_memory", free)
    monkeypatch.setattr(module, "resolve", lambda name: log.append(name) or end.wait(0.1) or 1 / 0)
    trainer = Trainer(None, None, load="a:b", train="c:d")
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert sorted(log[:2], key=str) == [("listens", True), "a:b"]
    assert log[2:] == [Prepare(RUN), None, Train(7, RUN), None]


def test_a_training_without_torch(answers, monkeypatch):
    """It needs no hook on the steps of optimizers."""
    monkeypatch.delitem(sys.modules, "torch")
    result = SimpleNamespace(objective=1, best_epoch=2, best_val_loss=3, best_val_accuracy=1, scores={})
    (found,) = answers(Train(7, RUN), train=lambda run, on_epoch: (result, None))
    assert found.objective == 1
    assert "torch" not in sys.modules
    with pytest.raises(RuntimeError, match=r"^no trial is running$"):
        module._running(None)


def test_memory_is_freed_on_the_device_too(monkeypatch):
    """If there is one, and torch was imported."""
    freed = []
    monkeypatch.setattr(module.gc, "collect", lambda: freed.append("host"))

    def loaded(available):
        cuda = SimpleNamespace(is_available=lambda: available, empty_cache=lambda: freed.append("device"))
        return SimpleNamespace(cuda=cuda)

    for torch_module, expected in ((loaded(True), ["host", "device"]), (loaded(False), ["host"]), (None, ["host"])):
        freed.clear()
        monkeypatch.setitem(sys.modules, "torch", torch_module)
        module._free_memory()
        assert freed == expected


def test_weights_are_written_after_training(answers, tmp_path, monkeypatch, capsys):
    """Where a path is given and there is a network: contiguous tensors only, not too large; no failure ends it."""
    network = torch.nn.Linear(2, 3)
    network.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
    network.get_extra_state = lambda: {"not": "a tensor"}
    result = SimpleNamespace(objective=1, best_epoch=2, best_val_loss=3, best_val_accuracy=1, scores={})
    path = tmp_path / "a" / "b" / "w.safetensors"

    def trained(model, path):
        (found,) = answers(Train(7, RUN, None, path and str(path)), train=lambda run, on_epoch: (result, model))
        assert isinstance(found, Done)

    trained(None, path)
    trained(network, None)
    assert not path.parent.parent.exists()
    trained(network, path)
    written = load_file(path)
    assert written.keys() == {"weight", "bias", "turned"}
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in written.items())
    path.unlink()
    monkeypatch.setattr("dropopt.study.run.weights.LIMIT", 4 * 15 - 1)
    trained(network, path)
    assert not path.exists()
    monkeypatch.setattr("dropopt.study.run.weights.LIMIT", 4 * 15)
    trained(network, path)
    assert path.exists()
    assert capsys.readouterr().err == ""
    trained(network, path / "below")
    assert capsys.readouterr().err.startswith(f"the weights cannot be written to {path / 'below'}: ")
