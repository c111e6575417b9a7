"""`python -m rtspecinv`."""

import sys

from rtspecinv.cli import main

sys.exit(main())
