"""The error that ends a study."""

from __future__ import annotations


class StudyError(RuntimeError):
    """The study cannot continue; the message gives the cause and what to check."""
