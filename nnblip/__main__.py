"""`python -m nnblip`."""

import sys

from nnblip.cli import main

sys.exit(main())
