"""Two processes that train one model together, with gloo."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from ports import free_port


def on_two_ranks(work: Callable[..., Any], *given: Any, folder: Path) -> list[Any]:
    """Return what ``work(rank, *given)`` returns on each rank.

    This process is the first rank. The other one is a new process: a fork would have no threads of autograd if this
    process has started them. ``work`` is a function of a module.

    Args:
        work: What both processes do.
        *given: Its arguments, after the rank.
        folder: An empty folder, for the results.
    """
    port = free_port()
    other = torch.multiprocessing.get_context("spawn").Process(
        target=_main, args=(1, port, folder, work, given), daemon=True
    )
    other.start()
    _main(0, port, folder, work, given)
    other.join()
    assert other.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _main(rank: int, port: int, folder: Path, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    """What one of the two processes does. If the other one does not start, it ends after the time limit."""
    torch.set_num_threads(1)
    address, limit = f"tcp://127.0.0.1:{port}", timedelta(minutes=5)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=limit)
    try:
        torch.save(work(rank, *given), folder / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
