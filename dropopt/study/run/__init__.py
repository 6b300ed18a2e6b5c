"""Running trials: the worker, its pool and the child processes that train."""
