"""Your own photographs, in a folder with one sub-folder for each class.

    dropopt run folder --data folder:PATH        or: python studies/folder.py --data folder:PATH

The photographs are PATH/CLASS/*.jpg. To use your own splits, put them in PATH/train/CLASS/*.jpg, and likewise in
PATH/validation (or PATH/val) and PATH/test. Images are resized to 32x32 once and cached as a tensor.

Time on two cores: 10 to 20 minutes for 3,000 photographs, and in proportion for more. A trial that is not pruned takes
about 40 seconds. Memory: 1 GB for each of two processes. Nothing is downloaded.
"""

from dropopt.study import Study

study = Study(
    name="folder",
    data={"name": "folder:photographs", "image_size": 32},
    model={"name": "small"},
    train={"epochs": 25, "amp": "auto", "channels_last": True, "augment": ["shift", "flip"]},
    space="compact",
    n_trials=60,
)

if __name__ == "__main__":
    study.main()
