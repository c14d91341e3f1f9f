"""`python -m rapidsmtp` is the command `rapidsmtp`."""

import sys

from rapidsmtp.cli import main

if __name__ == "__main__":
    sys.exit(main())
