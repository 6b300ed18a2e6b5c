"""scikit-learn's handwritten digits: 8x8 images in ten classes, nothing to download.

    dropopt run digits            or: python studies/digits.py
    dropopt run digits --help     all options

There are 1,797 images. A fifth is for validation, and a fifth is the test set, which is read once, after the study.
Even a small network overfits so few images, so dropout can help.

Time on two cores: one to two minutes. Memory: under 1 GB for each of two processes.
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
