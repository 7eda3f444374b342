"""``python -m pyramid_moa``."""

import sys

from pyramid_moa.cli import main

if __name__ == "__main__":
    sys.exit(main())
