"""Files that cannot be written: noticed before the work begins, or without losing its result."""

import os
import tempfile

import pytest
import torch

from dropopt.config import ConfigError
from dropopt.study.after.retrain import save_weights
from dropopt.study.command.output import check_writable
from dropopt.study.command.train import save_or_rescue
from dropopt.study.run.errors import StudyError


def test_a_network_that_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch):
    """In the folder for temporary files, which the message names; if that is full too, the first error is reported."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "model.pt"
    with pytest.raises(
        StudyError, match=r"^the weights cannot be written to \S+: .*; the trained network is in"
    ) as error:
        save_or_rescue(lambda path: save_weights({"w": torch.ones(2)}, path), output)
    rescued = str(error.value).rpartition(" ")[2]
    assert rescued.endswith("/model.pt")
    assert torch.load(rescued)["w"].tolist() == [1, 1]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StudyError, match=r"model\.pt: [^;]+$"):
        save_or_rescue(lambda path: save_weights({"w": torch.ones(2)}, path), output)


def test_a_folder_that_is_read_only_is_noticed(tmp_path, monkeypatch):
    """As root, only a file system can be read-only."""
    check_writable(tmp_path / "report.html")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"report\.html cannot be written: its folder is read-only"):
        check_writable(tmp_path / "report.html")
