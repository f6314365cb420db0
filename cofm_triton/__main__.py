"""`python -m cofm_triton` is the command `cofm`."""

import sys

from cofm_triton.cli import main

sys.exit(main())
