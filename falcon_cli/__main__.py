"""`python -m falcon_cli`, and the `falcon` script."""

import sys

from falcon_cli.commands.app import main as run


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
