"""Two processes that train one model with DistributedDataParallel, each with data and masks of its own."""

import copy

import pytest
import torch
from small_net import Net, batch
from torch import nn
from two_ranks import on_two_ranks

import dropopt
from dropopt.config import ConfigError, EngineConfig

CONFIG = EngineConfig(r0=0.4, importance="lrp", allocation="importance", drop_updates=True, efficacy="adaptive")


def train(rank):
    """Train with an engine on the wrapper, and metrics that differ or are known to one process; return what it did."""
    torch.manual_seed(0)
    network = nn.parallel.DistributedDataParallel(Net(), find_unused_parameters=True)
    engine = dropopt.attach(network, CONFIG, example=batch()[0], complexity=0.3 + 0.4 * rank)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    engine.watch(optimizer)
    torch.manual_seed(rank)
    rates, metrics = [], ({"val_loss": 0.9 + rank, "train_loss": 0.5}, {"val_accuracy": 0.7} if rank else {})
    for epoch in (1, 2):
        for step in range(3):
            images, labels = batch(seed=10 * epoch + step + 100 * rank)
            optimizer.zero_grad()
            with network.no_sync():
                nn.functional.cross_entropy(network(images[:8]), labels[:8]).backward()
            nn.functional.cross_entropy(network(images[8:]), labels[8:]).backward()
            optimizer.step()
            engine.probe(images, labels)
        engine.step(epoch=epoch, epochs=2, **metrics[epoch - 1])
        rates.append(engine.rates())
    state = copy.deepcopy(engine.state_dict())
    drawn = torch.rand(4)
    shared = [state]
    torch.distributed.broadcast_object_list(shared, 0)
    engine.load_state_dict(shared[0])
    weights = [parameter.detach() for parameter in network.parameters()]
    return {"rates": rates, "weights": weights, "drawn": drawn, "again": torch.rand(4), "engine": engine.complexity}


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
    """Each process of FSDP2 has a part of each weight only; torch crashed. An importance by gradients works."""
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


def test_ranks_have_common_rates_and_weights_and_masks_of_their_own(tmp_path):
    """All ranks have the same rates and weights, from the means of the metrics and complexities that the ranks gave.

    This holds for an engine on the wrapper, whose probes leave DistributedDataParallel as it was, and where the rates
    differed until the first step. From the state of the first rank, only the first one draws the same numbers.
    """
    first, second = on_two_ranks(train, folder=tmp_path)
    assert first["rates"] == second["rates"]
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    assert first["engine"] == second["engine"] == pytest.approx(0.5)
    one = dropopt.attach(Net(), CONFIG, example=batch()[0], complexity=0.5)
    images, labels = batch()
    one.watch(torch.optim.SGD(one.model.parameters()))
    for epoch, metrics in enumerate(({"val_loss": 1.4, "train_loss": 0.5}, {"val_accuracy": 0.7}), start=1):
        one.probe(images, labels)
        one.step(epoch=epoch, epochs=2, **metrics)
        for mine, theirs in zip(one.rates(), first["rates"][epoch - 1], strict=True):
            assert theirs["site"] == f"module.{mine['site']}"
            for name in ("alpha", "adaptive", "contextual"):  # these do not depend on importances
                assert theirs[name] == pytest.approx(mine[name]), (epoch, name)
    assert torch.equal(first["again"], first["drawn"])
    assert not torch.equal(second["again"], first["again"])
