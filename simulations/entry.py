"""Where the command `lethe` begins: nothing heavy is imported yet, so that Ctrl-C is one line from the first moment."""

import sys


def main() -> None:
    """Import the command line and run it."""
    try:
        from simulations.cli import main as run
    except KeyboardInterrupt:
        print("error: interrupted; nothing is half done, run the command again", file=sys.stderr)
        sys.exit(1)
    run()
