"""What the worker and its child processes tell each other."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
