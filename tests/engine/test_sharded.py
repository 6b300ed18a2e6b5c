"""Networks of FSDP2, of whose weights each process has a part."""

import pytest
import torch
from small_net import Net, batch
from torch import nn

import dropopt
from dropopt.config import ConfigError, EngineConfig


@pytest.fixture
def sharded():
    """A network of FSDP2, with one process."""
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    model = Net()
    for part in (model.one, model.two, model):
        fully_shard(part)
    yield model
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("importance", ["lrp", "composite"])
def test_what_reads_sharded_weights_is_refused(sharded, importance):
    """Torch crashed. An importance by gradients works."""
    images, labels = batch()
    with dropopt.attach(sharded, EngineConfig(importance=importance), example=images, complexity=0.5) as engine:
        message = f"^importance '{importance}' reads weights, of which .* choose taylor or gradient$"
        with pytest.raises(ConfigError, match=message):
            engine.probe(images, labels)
    config = EngineConfig(importance="gradient", drop_updates=True)
    with dropopt.attach(sharded, config, example=images, complexity=0.5) as engine:
        engine.probe(images, labels)
        assert all(site.refreshes == 1 for site in engine.sites.values())
        message = r"^drop_updates cannot mask parameters .* \(FSDP2\): set drop_updates to false$"
        with pytest.raises(ConfigError, match=message):
            engine.watch(torch.optim.SGD(sharded.parameters(), lr=0.1))


def test_an_optimizer_that_is_made_after_attach_or_a_probe_trains_sharded_weights(sharded):
    """FSDP2 leaves weights of the outermost module whole after a pass without a backward pass."""
    images, labels = batch()
    engine = dropopt.attach(sharded, EngineConfig(importance="gradient"), example=images, complexity=0.5)
    for prepare in (lambda: None, lambda: engine.probe(images, labels)):
        prepare()
        optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
        nn.functional.cross_entropy(sharded(images), labels).backward()
        before = sharded.head.weight.full_tensor().clone()
        optimizer.step()
        assert not torch.equal(sharded.head.weight.full_tensor(), before)
