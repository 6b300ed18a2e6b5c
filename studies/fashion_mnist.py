"""Fashion-MNIST: 28x28 grey images of clothes in ten classes, of which 5,000 are used.

    dropopt run fashion_mnist                    or: python studies/fashion_mnist.py
    dropopt run fashion_mnist --subset 60000     the full data set

Even a small network overfits so few images, so dropout can help.

Time on two cores: 10 to 20 minutes. A trial that is not pruned takes about 40 seconds. The full data set takes twelve
times as long, about 3 hours. Memory: 1 GB for each of two processes, 1.2 GB with the full data set. Download: 30 MB on
first use. Without a network connection, install Debian's package dataset-fashion-mnist; its files are found
automatically.
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
