"""What both sides speak; imports neither of them."""

import os

# Before torch is imported: its threads wait for each other spinning, and on a machine that somebody else uses too
# the default made training sixteen times slower (measured); this costs nothing on an idle one.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
