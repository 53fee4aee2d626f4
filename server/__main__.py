"""``python -m server`` is ``anemone``."""

import sys

from server.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
