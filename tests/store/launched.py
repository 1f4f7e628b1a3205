"""`hf-e2kd`, whose processes stop in the middle of their second shard and wait to be killed.

Started by `accelerate launch`; in the working directory each process leaves a file that is named after its id.
"""

import os
import time
from pathlib import Path

from hf_e2kd.cli import main
from hf_e2kd.store.writer import ShardWriter

add, seen = ShardWriter.add, []


def add_or_wait(self: ShardWriter, rows: dict) -> None:
    add(self, rows)
    if self not in seen:
        seen.append(self)
    if len(seen) == 2:
        Path(f"{os.getpid()}.waits").touch()
        time.sleep(600)


if __name__ == "__main__":
    ShardWriter.add = add_or_wait
    main()
