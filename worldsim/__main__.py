"""``python -m worldsim`` is the same as ``worldsim``."""

from __future__ import annotations

import sys

from worldsim.cli import main

if __name__ == "__main__":
    sys.exit(main())
