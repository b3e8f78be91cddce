"""`python -m trl_ext`, and what `accelerate launch -m trl_ext` runs."""

import sys

from trl_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
