"""Checkpoints: a resumed run equals an uninterrupted one; a file is complete or absent and never runs code."""

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from samples import MakesFolder
from torch import nn
from toy import CLASSES, Stop, assert_same, network, recipe, stop_after, toy, train

from dropopt.config import Baseline, EngineConfig
from dropopt.files import clear_leftovers, seal, write_whole
from dropopt.training import checkpoint, fit
from dropopt.training.fit import _identity
from dropopt.training.task import Task


class TestResume:
    """A resumed run equals an uninterrupted one."""

    CASES = (
        ({"augment": ("shift", "flip", "cutout")}, EngineConfig(allocation="feature")),
        ({"optimizer": "adamw", "lr": 0.01, "patience": 2}, EngineConfig(update_every=2, drop_updates=True)),
        ({"channels_last": True, "amp": "bf16"}, EngineConfig(importance="gradient", pattern="structured")),
        ({"schedule": "cosine"}, EngineConfig(efficacy="adaptive", pattern="own", w_spatial=0.5)),
        ({"schedule": "constant"}, Baseline(kind="dropblock", schedule="linear")),
        ({"schedule": "constant", "lr": 0.5, "smooth": 0.0}, None),  # the best epoch is not the last
    )

    @pytest.mark.parametrize(("settings", "engine"), CASES)
    def test_an_interruption_after_any_epoch(self, tmp_path, settings, engine):
        """A run interrupted after each epoch in turn is bit-identical at the end to an uninterrupted one.

        Resuming it after its last epoch trains and reports nothing, and gives the same.
        """
        whole = train(engine, **settings)
        assert (engine is not None) == bool(whole[0].rates)
        assert engine is not None or whole[0].best_epoch == 2, "the last case has its best epoch before an interruption"
        path = tmp_path / "run.pt"
        seen, attempts = [], []

        def go_on(report):
            seen.append(report.epoch)
            if report.epoch == len(attempts) + 1:
                raise Stop

        with pytest.raises(Stop):  # nothing is written before on_epoch has returned
            train(engine, on_epoch=go_on, checkpoint=path, **settings)
        assert not path.exists()
        while True:
            try:
                parts = train(engine, on_epoch=go_on, checkpoint=path, **settings)
                break
            except Stop:
                attempts.append(1)
        assert_same(whole, parts)
        assert seen[:6] == [1, 1, 1, 2, 2, 3]  # the interrupted epoch is repeated, no other is, none is skipped
        seen.clear()
        assert_same(whole, train(engine, on_epoch=go_on, checkpoint=path, **settings))
        assert seen == []

    def test_resuming_tells_the_reports_before(self, tmp_path):
        """Once, and only if there are any, with the objective by which they were judged."""
        told = []
        options = {"task": Task(by_metric=True), "checkpoint": tmp_path / "c", "on_resume": told.append}
        result = fit(network(), None, toy(), recipe(epochs=3), **options)
        assert told == []
        assert result.history[0].objective != result.history[0].smoothed_loss
        found = fit(network(), None, toy(), recipe(epochs=3), **options)
        assert told == [result.history] == [found.history]

    def test_the_networks_own_dropout_continues(self, tmp_path):
        """Without an engine, the masks of nn.Dropout are those of an uninterrupted run."""

        def run(**options):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, CLASSES))
            return fit(model, None, toy(), recipe(), **options), model.state_dict()

        whole = run()
        with pytest.raises(Stop):
            run(on_epoch=stop_after(3), checkpoint=tmp_path / "run.pt")
        assert_same(whole, run(checkpoint=tmp_path / "run.pt"))


class TestCheckpointFile:
    """The file is complete or absent, and never runs code."""

    def test_a_kill_at_any_stage_leaves_the_old_file(self, tmp_path):
        script = textwrap.dedent(
            """
            import os, pathlib, sys
            from dropopt import files
            path = pathlib.Path(sys.argv[1])
            die = lambda *_: os._exit(9)  # no handler, no finally, nothing flushed
            class Torn:
                def __init__(self, handle, mode): self.file = open(handle, mode)
                def __enter__(self): return self
                def __exit__(self, *_): pass
                def write(self, data): self.file.write(data[:10]); self.file.flush(); die()
            for stage, fault in {"fdopen": Torn, "fsync": die, "replace": die}.items():
                child = os.fork()
                if not child:
                    setattr(os, stage, fault)
                    files.write_whole(path, b"new content, longer than ten bytes")
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, stage
                assert path.read_bytes() == b"old", stage
            """
        )
        path = tmp_path / "run.pt"
        write_whole(path, b"old")
        subprocess.run([sys.executable, "-c", script, str(path)], check=True)
        assert len(list(tmp_path.iterdir())) == 1 + 3
        clear_leftovers(path)
        assert list(tmp_path.iterdir()) == [path]

    def test_a_folder_that_is_removed_is_created_again(self, tmp_path, monkeypatch):
        """Whoever ends the last other trial removes the folder, also while it is about to be used."""
        path, opened = tmp_path / "checkpoints" / "run.pt", os.open

        def removing(*arguments):
            monkeypatch.undo()
            path.parent.rmdir()
            return opened(*arguments)

        monkeypatch.setattr(os, "open", removing)
        write_whole(path, b"content")
        assert path.read_bytes() == b"content"
        path.unlink()
        result = train(checkpoint=path, on_epoch=lambda _: shutil.rmtree(path.parent, ignore_errors=True))
        assert_same(train(), result)

    @pytest.mark.parametrize("function", ["fsync", "replace", "fdopen"])
    def test_a_full_disk_gives_a_warning(self, tmp_path, monkeypatch, function):
        path = tmp_path / "run.pt"
        whole = train()

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        def fill(report):
            if report.epoch == 3:
                monkeypatch.setattr(os, function, full)

        with pytest.warns(UserWarning, match="cannot be written .*No space left on device"):
            assert_same(whole, train(on_epoch=fill, checkpoint=path))
        monkeypatch.undo()
        assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
        epochs = []
        assert_same(whole, train(on_epoch=lambda report: epochs.append(report.epoch), checkpoint=path))
        assert epochs == [3, 4]

    def set_aside(self, path, content):
        """Check that ``content`` in place of the checkpoint is not read, and that it is kept."""
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"is not usable .* kept as run.pt.bad and training starts afresh"):
            assert checkpoint.read_checkpoint(path, "mine", torch.device("cpu")) is None
        assert not path.exists()
        assert path.with_name("run.pt.bad").read_bytes() == content

    def test_a_damaged_file_is_set_aside(self, tmp_path):
        path, foreign = tmp_path / "run.pt", io.BytesIO()
        checkpoint.write_checkpoint(path, "mine", {"a": torch.zeros(200)}, [], torch.device("cpu"))
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 255
        torch.save([1, 2], foreign)
        cuts = (0, 1, 100, len(content) // 2, len(content) - 1)
        strangers = (bytes(flipped), b"hello", foreign.getvalue(), seal(foreign.getvalue()), seal(b"hello"))
        for bad in (*(content[:cut] for cut in cuts), *strangers):
            self.set_aside(path, bad)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_what_is_not_a_file_is_set_aside(self, tmp_path):
        path, whole = tmp_path / "run.pt", train()
        for number, make in enumerate((os.mkfifo, os.mkdir, lambda here: os.symlink("/dev/zero", here))):
            make(path)
            with pytest.warns(UserWarning, match="it is not a file"):
                assert_same(whole, train(checkpoint=path))
            path.with_name("run.pt.bad").rename(tmp_path / str(number))
            path.unlink()

    def test_the_identity_of_a_run_is_fixed(self):
        """Written out: if it changed, no checkpoint that exists could be continued."""
        data, model, config = toy(), nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES)), recipe()
        facts = {
            "train": {name: value for name, value in config.model_dump(mode="json").items() if name != "device"},
            "engine": None,
            "model": {"1.weight": [CLASSES, 128], "1.bias": [CLASSES]},
            "data": [90, 40],
        }
        del facts["train"]["lr_scale"]

        def digest(facts):
            return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

        assert _identity(model, None, data, config, Task()) == digest(facts)
        by_metric = facts | {"task": ["cross_entropy", "accuracy", True, True]}
        assert _identity(model, None, data, config, Task(by_metric=True)) == digest(by_metric)
        named = replace(data, fingerprint={"train": "a", "validation": "b", "test": "c"})
        engine = SimpleNamespace(config=EngineConfig())
        more = facts | {"engine": EngineConfig().model_dump(mode="json"), "data": ["a", "b"]}
        more["train"] = {**facts["train"], "lr_scale": {"1.*": 0.5}}
        assert _identity(model, engine, named, recipe(lr_scale={"1.*": 0.5}), Task()) == digest(more)

    def test_the_file_of_another_network_or_version_is_set_aside(self, tmp_path, monkeypatch):
        path = tmp_path / "run.pt"
        train(checkpoint=path)
        with pytest.warns(UserWarning, match="it belongs to another run"):
            fit(network(head=24), None, toy(), recipe(), checkpoint=path)
        monkeypatch.setattr(checkpoint, "VERSION", 2)
        train(checkpoint=path.with_name("new.pt"))
        monkeypatch.undo()
        with pytest.warns(UserWarning, match="its version is 2, expected 1"):
            train(checkpoint=path.with_name("new.pt"))

    def test_leftovers_of_a_killed_process_are_removed(self, tmp_path):
        leftover = tmp_path / ".run.pt.abc.tmp"
        leftover.write_bytes(b"half")
        there = []
        train(checkpoint=tmp_path / "run.pt", on_epoch=lambda _: there.append(leftover.exists()))
        assert not any(there)

    def test_it_holds_the_random_state_of_the_device(self, tmp_path, monkeypatch):
        """That of the CPU, and on a GPU that of its own generator; a reason without words is the kind of its error."""
        path, gpu, done = tmp_path / "run.pt", torch.device("cuda", 1), []
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([device.index, 7]).byte())
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: done.append((state.tolist(), device)))
        checkpoint.write_checkpoint(path, "mine", {"a": 1}, [], gpu)
        drawn = torch.rand(3)
        assert checkpoint.read_checkpoint(path, "mine", gpu) == ({"a": 1}, [])
        assert torch.equal(torch.rand(3), drawn)
        assert done == [([1, 7], gpu)]

        def exhausted(path):
            raise MemoryError

        monkeypatch.setattr(checkpoint, "load_tensors", exhausted)
        with pytest.warns(
            UserWarning, match=r"^checkpoint \S+ is not usable \(MemoryError\); it is kept as run.pt.bad and"
        ):
            assert checkpoint.read_checkpoint(path, "mine", gpu) is None

    def test_it_never_runs_code(self, tmp_path):
        evil, saved = MakesFolder(tmp_path / "ran"), io.BytesIO()
        torch.save({"version": 1, "identity": evil}, saved)
        for wrapped in (saved.getvalue(), seal(saved.getvalue()), pickle.dumps(evil), seal(pickle.dumps(evil, 2))):
            self.set_aside(tmp_path / "run.pt", wrapped)
        assert not (tmp_path / "ran").exists()
