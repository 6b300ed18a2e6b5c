"""Data sets as tensors.

The path of an image through this package:

    load_data        chooses the reader that a setting names
    read_*           one reader per format; each returns a Source (source.py)
      read_arrays        NumPy files, and what a user's own function returns
      read_folder        image files in one folder per class, without system_files; read_image decodes one file, stack
                         brings all to one scale
      read_torch         PyTorch data sets and loaders of the user's own, in memory (reading, collate)
      read_stream        the same, read anew in each epoch (stream)
      read_torchvision   MNIST, Fashion-MNIST, KMNIST, CIFAR and SVHN
    from_source      resizes, splits (stratify) and normalises a Source; returns a Dataset (dataset.py) of three Splits

``complexity`` measures how hard a data set is, eq. (9). ``pixels`` keeps the scale of a source, so that images of other
files can be brought to it. ``memory`` and ``progress`` serve the readers.
"""
