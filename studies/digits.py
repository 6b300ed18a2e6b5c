"""The 8x8 handwritten digits of scikit-learn: nothing to download.

    dropopt run digits            or: python studies/digits.py
    dropopt run digits --help     what else it can do

1,797 images, a fifth for validation, a fifth for the test that is read once, after the study. A network
this small overfits them quickly, so dropout has something to win.

Costs, on two cores: about half a minute, and under 1 GB of memory for each of two processes.
"""

from dropopt.study import Study

study = Study(
    name="digits",
    data={"name": "digits"},
    model={"name": "small"},
    train={"epochs": 30, "batch_size": 128, "channels_last": True},
    space="compact",
    n_trials=40,
)

if __name__ == "__main__":
    study.main()
