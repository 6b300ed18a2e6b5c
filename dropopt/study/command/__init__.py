"""The commands of the command line, one module each, and ``Study``, which runs as a script."""
