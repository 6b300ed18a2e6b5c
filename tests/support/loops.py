"""What the tests of the integrations share: toy data in a loader, and settings that need every call of an engine."""

from torch.utils.data import DataLoader, TensorDataset

from dropopt.config import EngineConfig

#: Needs a probe, refreshes within an epoch, and masks the optimizer's updates.
DEMANDING = EngineConfig(
    r0=0.4, allocation="importance", importance="lrp", update_every=4, drop_updates=True, efficacy="adaptive"
)


def loader(split, shuffle=False):
    """Batches of 16."""
    return DataLoader(TensorDataset(split.images.contiguous(), split.labels), batch_size=16, shuffle=shuffle)
