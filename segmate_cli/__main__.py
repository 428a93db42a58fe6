"""``python -m segmate_cli`` is ``segmate``."""

import sys

from segmate_cli.cli import main

sys.exit(main())
