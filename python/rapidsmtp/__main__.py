"""The entry point of `python -m rapidsmtp`, which runs the command `rapidsmtp`."""

import sys

from rapidsmtp.cli import main

if __name__ == "__main__":
    sys.exit(main())
