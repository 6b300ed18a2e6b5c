"""Data sets as tensors: readers, splits, and what is measured of the data."""
