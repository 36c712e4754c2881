"""``python -m layerprobe`` is the command line."""

import sys

from layerprobe.cli import main

sys.exit(main())
