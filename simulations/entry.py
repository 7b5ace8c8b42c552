"""Where the command `lethe` begins: nothing heavy is imported yet, so that Ctrl-C is one line from the first moment."""

import io
import os
import sys


def main() -> None:
    """Import the command line and run it."""
    try:
        from simulations.cli import main as run
    except KeyboardInterrupt:
        print("error: interrupted; nothing is half done, run the command again", file=sys.stderr)
        sys.exit(1)
    run()


def open_streams() -> None:
    """Give a stdout or stderr that is closed (`lethe ... >&-`) the null device, or a database would get its number.

    What an encoding other than UTF-8 cannot say is printed as "?".
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w"))
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")
