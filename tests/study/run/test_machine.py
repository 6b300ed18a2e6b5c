"""What the worker reads about the machine: memory, the kernel's kills and cores, from a made-up /proc and /sys."""

import errno
import os

import pytest
import torch

from dropopt.config import ConfigError
from dropopt.study.run import machine, memory


@pytest.fixture(name="root")
def _root(tmp_path, monkeypatch):
    """A function ``write(path, text)`` for files below a root that takes the place of ``/``."""

    def path(*parts):
        return tmp_path.joinpath(*(part.lstrip("/") for part in parts))

    def write(name, text):
        path(name).parent.mkdir(parents=True, exist_ok=True)
        path(name).write_text(text)
        return path(name)

    monkeypatch.setattr(memory, "Path", path)
    monkeypatch.setattr(machine, "Path", path)
    return write


def test_the_memory_of_a_process_and_its_descendants(root):
    """Resident pages of a single process; shares of those that fork, where common memory counts once."""
    assert not memory.can_measure()
    assert memory.used(10) == 0
    root("/proc/self/statm", "9 9")
    assert memory.can_measure()
    root("/proc/10/statm", "500 7 3 0 0 0 0")
    root("/proc/10/task/10/children", "")
    assert memory.used(10) == 7 * os.sysconf("SC_PAGE_SIZE")
    root("/proc/10/task/10/children", "11 12 ")
    root("/proc/12/task/12/children", "13")
    for pid, share in ((10, 100), (11, 20), (13, 3)):  # 12 has just ended
        root(f"/proc/{pid}/smaps_rollup", f"00-ff ---p [rollup]\nRss:  9999 kB\nPss:  {share} kB\nPss_Anon: 1 kB\n")
    assert memory.used(10) == 123 * 1024
    root("/proc/10/statm", "")
    root("/proc/10/task/10/children", "")
    assert memory.used(10) == 0


def test_the_kernel_counts_its_kills(root):
    """The counter of the control group, of version 2 or 1, else that of the machine, else none."""
    assert memory.kernel_kills() is None
    root("/proc/vmstat", "pgfault 1\noom_kill 5\n")
    assert memory.kernel_kills() == 5
    root("/proc/self/cgroup", "3:cpu,cpuacct:/a\n2:memory:/b\n")
    root("/sys/fs/cgroup/memory/b/memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 3\n")
    assert memory.kernel_kills() == 3
    root("/proc/self/cgroup", "0::/x:y\n2:memory:/b\n")
    assert memory.kernel_kills() == 3  # x:y has no file
    root("/sys/fs/cgroup/x:y/memory.events", "oom_kill many\n")
    assert memory.kernel_kills() == 3
    root("/sys/fs/cgroup/x:y/memory.events", "oom 7\noom_kill 2\n")
    assert memory.kernel_kills() == 2


def test_this_process_is_killed_before_its_parent(root):
    """If the system lets it say so."""
    memory.prefer_as_victim()
    score = root("/proc/self/oom_score_adj", "0")
    memory.prefer_as_victim()
    assert score.read_text() == "500"


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (OSError(errno.ENOMEM, "x"), True),
        (OSError(errno.ENOENT, "out of memory"), False),
        (RuntimeError("[enforce fail] Cannot Allocate Memory"), True),
        (RuntimeError("CUDA error: OUT OF MEMORY"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
        (None, False),
    ],
)
def test_errors_that_mean_that_memory_ran_out(error, found):
    """Also as the cause of another error."""
    assert memory.ran_out(error) is found
    outer = ValueError("training failed")
    outer.__cause__ = error
    assert memory.ran_out(outer) is found


def test_the_error_of_torch_without_memory_on_the_cpu():
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.ran_out(caught.value)


@pytest.mark.parametrize(
    ("quota", "count"), [("max 100000", 6), ("250000 100000", 2), ("900000 100000", 6), ("5000 100000", 1), ("odd", 6)]
)
def test_cores_within_the_limit_of_the_container(root, monkeypatch, quota, count):
    """A quota counts in whole cores, and there is always one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert machine.cores() == 6
    root("/sys/fs/cgroup/cpu.max", quota + "\n")
    assert machine.cores() == count
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores() == 1


def test_slots_and_cards(root, monkeypatch):
    """Without CUDA's variable the GPUs are those of /dev; 0 and numbers below -1 are refused."""
    monkeypatch.delenv(machine.VISIBLE, raising=False)
    assert machine.cards("auto") == []
    for number in (0, 1, 12):
        root(f"/dev/nvidia{number}", "")
    root("/dev/nvidiactl", "")
    assert machine.cards("auto") == ["0", "1", "2"]
    assert machine.cards("cuda:1") == ["0,1,2"]
    assert machine.slots(1, 0) == 1
    for bad in (0, -2):
        with pytest.raises(ConfigError, match=f"^n-jobs must be 1 or more, or -1 for one per core, got {bad}$"):
            machine.slots(bad, 0)
