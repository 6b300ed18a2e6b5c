"""Which device is found, and whether it computes bf16 in hardware, on machines with and without GPUs."""

import pytest
import torch

from dropopt.config import ConfigError
from dropopt.training.device import computes_bf16, resolve_device


@pytest.mark.parametrize(
    ("count", "name", "found"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (2, "cpu", "cpu"),
        (0, "cuda", "auto, cpu"),
        (1, "cuda:1", "auto, cpu, cuda, cuda:0"),
        (2, "cuda:2", "auto, cpu, cuda, cuda:0, cuda:1"),
        (2, "meta", "auto, cpu, cuda, cuda:0, cuda:1"),
        (2, "mps", "auto, cpu, cuda, cuda:0, cuda:1"),
    ],
)
def test_devices_by_name(monkeypatch, count, name, found):
    """The first GPU unless another one is named; the message lists what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count or 9)
    if "," in found:
        with pytest.raises(ConfigError) as caught:
            resolve_device(name)
        assert str(caught.value) == f"device must be one of {found} on this machine, got {name!r}"
    else:
        assert resolve_device(name) == torch.device(found)


def test_bf16_in_hardware(monkeypatch):
    """A GPU that emulates it does not count, and of CPUs only those with one of two extensions."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    assert not computes_bf16(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: not including_emulation)
    assert computes_bf16(torch.device("cuda"))
    assert not computes_bf16(torch.device("meta"))
    for capabilities, found in (
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"avx2": True, "amx_bf16": False}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda given=capabilities: given, raising=False)
        assert computes_bf16(torch.device("cpu")) is found
        assert computes_bf16(torch.device("meta")) is False
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not computes_bf16(torch.device("cpu"))
