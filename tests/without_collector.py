"""Stops the garbage collector, for a process that begins with imports: they make nothing to collect."""

import gc

gc.disable()
