"""``python -m dropopt``: the ``dropopt`` command."""

from dropopt.cli import main

if __name__ == "__main__":
    main()
