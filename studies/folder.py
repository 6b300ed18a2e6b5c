"""Your own photographs: a folder with one sub-folder for each class.

    dropopt run folder --data folder:PATH        or: python studies/folder.py --data folder:PATH

PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg with validation (or val) and test beside train. Images are resized
once, to 32x32, and kept as a tensor in the cache.

Costs, on two cores: 10 to 20 minutes for 3,000 photographs (about 40 seconds for a trial that is not pruned), in
proportion for more, and 1 GB of memory for each of two processes. Nothing is downloaded.
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
