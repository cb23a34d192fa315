"""``python -m xtts_export_callback``: the command `xtts-export`."""

from __future__ import annotations

import sys

from xtts_export_callback.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
