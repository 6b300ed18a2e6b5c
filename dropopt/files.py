"""Files that are whole or absent, and the folder where what can be computed again is kept."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

_MAGIC = b"dropopt tensors 1\n"


def write_whole(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` at once: a reader, or a crash at any point, sees the old file or the new.

    Raises OSError; then the old file stands and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # The umask decides who can read the file; tempfile.mkstemp would leave it to the user alone.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def clear_leftovers(path: Path) -> None:
    """Remove what a process that was killed while it wrote ``path`` has left beside it."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            leftover.unlink()


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    import torch  # most users of this module have no tensors, and importing torch takes a second

    # Through memory: torch's own writer turns a full disk into errors that do not say so.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, seal(buffer.getvalue()))


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what :func:`save_tensors` wrote; nothing in it is run.

    Raises ValueError for a file that is not as it was written, and what torch raises for what it refuses.
    """
    import torch

    content = torch.load(io.BytesIO(unseal(path.read_bytes())), map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
    return content


def seal(data: bytes) -> bytes:
    """``data`` behind its checksum, which torch's format lacks: a flipped bit would be a changed weight."""
    return _MAGIC + hashlib.sha256(data).digest() + data


def unseal(data: bytes) -> bytes:
    """What was sealed; raises ValueError when it is not that any more."""
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if not data.startswith(_MAGIC):
        raise ValueError("it is no file of dropopt's")
    if hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise ValueError("it is truncated or damaged")
    return data[start:]


def cache_folder() -> Path:
    """``$DROPOPT_CACHE``, or ``dropopt`` in the user's cache folder."""
    try:
        if own := os.environ.get("DROPOPT_CACHE"):
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dropopt"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / "dropopt"


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable; where folders cannot be opened (Windows) it already is."""
    with suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
