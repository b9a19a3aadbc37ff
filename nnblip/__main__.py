"""`python -m nnblip`."""

import sys

from nnblip.command.cli import main

sys.exit(main())
