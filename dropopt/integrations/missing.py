"""The error for a package that is not installed."""

from __future__ import annotations

from dropopt.config import ConfigError


def missing(module: str, error: ImportError) -> ConfigError:
    """Return the error of ``dropopt.integrations.MODULE``, whose package cannot be imported."""
    return ConfigError(f"dropopt.integrations.{module} cannot import {error.name}: pip install 'dropopt[{module}]'")
