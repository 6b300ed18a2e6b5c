"""Fashion-MNIST, 28x28 grey photographs of clothes in ten classes: 5,000 of them, where dropout has something to win.

    dropopt run fashion_mnist                    or: python studies/fashion_mnist.py
    dropopt run fashion_mnist --subset 60000     the full data set

Costs, on two cores: 10 to 20 minutes, since a trial that is not pruned takes about 40 seconds, and 1 GB of memory
for each of two processes; twelve times as long with the full data set, 3 hours or so, and 1.2 GB. Downloads 30 MB on
first use; without a network, the files of Debian's package dataset-fashion-mnist are found by themselves.
"""

from dropopt.study import Study

study = Study(
    name="fashion_mnist",
    data={"name": "fashion-mnist", "subset": 5000},
    model={"name": "small"},
    train={"epochs": 25, "amp": "auto", "channels_last": True},
    space="compact",
    n_trials=60,
)

if __name__ == "__main__":
    study.main()
