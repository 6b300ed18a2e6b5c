"""The storage of studies: opening it, recording trials and reading them."""
