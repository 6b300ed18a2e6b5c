"""Files that are complete or absent, and the cache folder."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

_MAGIC = b"dropopt tensors 1\n"


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file ``path`` by ``data`` atomically.

    A reader sees either the old or the new content, even after a crash at any point.

    Raises:
        OSError: If writing fails; the old file is unchanged then, and no temporary file is left.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "new", "settings.yaml")
        ...     write_whole(path, b"lr: 0.1")
        ...     path.read_text(), len(list(path.parent.iterdir()))
        ('lr: 0.1', 1)
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = _created(temporary)
    except FileNotFoundError:  # another process has removed the folder, which was empty, in the meantime
        handle = _created(temporary)
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


def _created(path: Path) -> int:
    """Create a file and its folder, and open it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The umask decides who can read the file; tempfile.mkstemp would let only its owner read it.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def clear_leftovers(path: Path) -> None:
    """Remove temporary files left by processes that were killed while they wrote ``path``."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            leftover.unlink()


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values atomically.

    Raises:
        OSError: If writing fails.
    """
    import torch  # most users of this module have no tensors, and importing torch takes a second

    # Through memory: torch's own writer reports a full disk as an unrelated RuntimeError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, seal(buffer.getvalue()))


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a file written by :func:`save_tensors`. Code in the file is never run.

    Raises:
        ValueError: If the file is damaged or was not written by :func:`save_tensors`.
        Exception: Whatever torch raises for content that it refuses to load.
    """
    import torch

    content = torch.load(io.BytesIO(unseal(path.read_bytes())), map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
    return content


def seal(data: bytes) -> bytes:
    """Prefix ``data`` with its checksum. torch's format has none, so a flipped bit would change a weight unnoticed."""
    return _MAGIC + hashlib.sha256(data).digest() + data


def unseal(data: bytes) -> bytes:
    """Return the data that :func:`seal` prefixed with their checksum.

    Raises:
        ValueError: If the checksum does not match.
    """
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if not data.startswith(_MAGIC):
        raise ValueError("it was not written by dropopt")
    if hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise ValueError("it is truncated or damaged")
    return data[start:]


def name_part(name: str, unwanted: str = r"[^\w.-]+", most: int = 80, *, lower: bool = False) -> str:
    """``name`` as a part of the name of a file. What is changed gets a hash, so that different names stay different.

    Args:
        name: Any text, such as the name of a study.
        unwanted: A pattern of what is replaced by hyphens. Default: all but letters of any alphabet, digits, ``_.-``.
        most: The largest number of bytes.
        lower: Whether the part is in lower case.

    Example:
        >>> name_part("größe_1.2"), name_part("a/b"), name_part("a b")
        ('größe_1.2', 'a-b-c14cddc0', 'a-b-c8687a08')
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # the names of files are ASCII here
        unwanted = r"[^A-Za-z0-9_.-]+"
    found = re.sub(unwanted, "-", name.lower() if lower else name).strip("-")
    if found and found == name and len(name.encode()) <= most:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    short = found.encode()[: most - len(digest) - 1].decode(errors="ignore").strip("-")
    return f"{short}-{digest}" if short else digest


def cache_folder() -> Path:
    """``$DROPOPT_CACHE``, or ``dropopt`` in the user's cache folder."""
    try:
        if own := os.environ.get("DROPOPT_CACHE"):
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dropopt"
    except RuntimeError:  # a user without a home folder
        return Path(tempfile.gettempdir()) / "dropopt"


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable. On Windows, where folders cannot be opened, it is durable already."""
    with suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
