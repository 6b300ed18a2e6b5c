"""The study of fine-tuning: weights from a file, frozen stages, and smaller rates for middle ones."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from dropopt.config import RunConfig
from dropopt.owncode import load_file
from dropopt.training import build_model, train_run
from dropopt.training.optim import make_optimizer

STUDY = Path(__file__).parents[2] / "studies" / "finetune.py"


def test_the_shipped_study_freezes_and_scales(tmp_path):
    """An epoch leaves frozen stages as in the file and moves the others, each group at its own rate."""
    weights = tmp_path / "resnet18.pth"
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), weights)
    study = load_file("finetune_study", STUDY).study
    run = study.base(study.load_space())
    assert run.train.lr_scale["layer1.*"] == 0
    settings = run.model_dump() | {
        "data": {"name": "digits", "subset": 40, "image_size": 32},
        "model": {"name": "torchvision:resnet18", "options": {"weights": str(weights)}},
        "train": run.train.model_dump() | {"epochs": 1, "amp": "none", "lr": 0.01, "batch_size": 16},
        "engine": {"kind": "none"},
    }
    run = RunConfig.parse(settings)
    _, model, _ = train_run(run)
    before = torch.load(weights, weights_only=True)
    after = dict(model.named_parameters())
    assert after["fc.weight"].shape == (10, 512)
    assert torch.equal(after["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"])
    names = ("layer2.0.conv1.weight", "layer4.0.conv1.weight")
    moved = {name: (after[name] - before[name]).abs().mean() for name in names}
    assert 0 < moved["layer2.0.conv1.weight"] < moved["layer4.0.conv1.weight"]
    fresh = build_model(run.model, channels=1, classes=10, image_size=32, seed=0)
    groups = make_optimizer(fresh, run.train).param_groups
    assert sorted({group["lr_scale"] for group in groups}) == [0.1, 0.3, 1]
    assert not fresh.layer1[0].conv1.weight.requires_grad
