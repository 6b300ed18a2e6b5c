"""The storage of studies: opening it, what is written on trials, and queries."""
