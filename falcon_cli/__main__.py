"""`python -m falcon_cli`, and the `falcon` script."""

import gc
import sys

from falcon_cli.commands.app import main as run


def main() -> None:
    """Run the command line and exit with its code."""
    gc.disable()  # imports alone make a million objects that stay; a loaded target turns it on again
    sys.exit(run())


if __name__ == "__main__":
    main()
