"""Running trials: the worker, its executor and the child processes that train."""
