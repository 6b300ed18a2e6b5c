"""Fashion-MNIST, 28x28 grey photographs of clothes in ten classes: 5,000 of them, where dropout has something to win.

    dropopt run fashion_mnist                    or: python studies/fashion_mnist.py
    dropopt run fashion_mnist --subset 60000     the full data set

Downloads 30 MB on first use; without a network, the files of Debian's package dataset-fashion-mnist are
found by themselves.
"""

from dropopt.study import Study

study = Study(
    name="fashion_mnist",
    data={"name": "fashion-mnist", "subset": 5000},
    model={"name": "small"},
    train={"epochs": 25, "amp": "bf16", "channels_last": True},
    space="compact",
    n_trials=60,
)

if __name__ == "__main__":
    study.main()
