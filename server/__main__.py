"""``python -m server`` is ``anemone``."""

import sys

from server.cli.start import start

if __name__ == "__main__":
    sys.exit(start())
