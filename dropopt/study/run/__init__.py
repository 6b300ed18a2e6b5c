"""Running trials: the worker, its slots and the child processes that train."""
