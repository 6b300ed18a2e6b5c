"""What is printed on a console."""

import io
from collections.abc import Callable

from rich.console import Console


def printed(draw: Callable[[Console], object], width: int = 200) -> str:
    """The text that ``draw`` prints on a console of ``width`` columns."""
    file = io.StringIO()
    draw(Console(file=file, width=width))
    return file.getvalue()
