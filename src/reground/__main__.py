"""``python -m reground``: the same as the ``reground`` command."""

from reground.cli import main

if __name__ == "__main__":
    main()
