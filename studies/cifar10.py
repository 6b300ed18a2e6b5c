"""CIFAR-10: 32x32 colour photographs in ten classes, with a small residual network and light augmentation.

    dropopt run cifar10                    or: python studies/cifar10.py
    dropopt run cifar10 --subset 50000     the full data set, better on a GPU

Time on two cores: 60 to 90 minutes. A trial that is not pruned takes about 3 minutes. The full data set takes five
times as long. Memory: 1.3 GB for each of two processes. Download: 170 MB on first use.
"""

from dropopt.study import Study

study = Study(
    name="cifar10",
    data={"name": "cifar10", "subset": 10000},
    model={"name": "resnet9", "options": {"widths": [16, 32, 64, 128]}},
    train={"epochs": 20, "amp": "auto", "channels_last": True, "augment": ["shift", "flip"]},
    space="compact",
    n_trials=60,
)

if __name__ == "__main__":
    study.main()
