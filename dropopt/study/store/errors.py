"""The errors of a storage while a study runs."""

from __future__ import annotations


class StorageError(RuntimeError):
    """The storage does not answer, or the study was deleted; the message is one line and says what to do."""


class TrialEndedError(Exception):
    """Another process has ended the trial, for example ``optuna tell`` or a worker that took it over."""
