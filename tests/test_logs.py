"""The package's loggers."""

import re
import subprocess
import sys

SCRIPT = """
from transformers.utils import logging
from hf_e2kd.logs import get_logger
get_logger("hf_e2kd.room.file").warning("told")
logging.set_verbosity_error()
get_logger("hf_e2kd.room.file").warning("silenced")
get_logger("hf_e2kd.room.file").error("told too")
"""


def test_the_verbosity_of_transformers():
    """Prevents: warnings in spite of `set_verbosity_error()`, or shown twice where a script sets up logging."""
    for setup in ("", "import logging; logging.basicConfig()\n"):
        ran = subprocess.run([sys.executable, "-c", setup + SCRIPT], capture_output=True, text=True, check=True)
        lines = [line for line in ran.stderr.splitlines() if "told" in line or "silenced" in line]
        # The lowest versions print a record's file where the others print the library.
        assert [re.sub(r"^.*\] ?|^.*:(?=told)", "", line) for line in lines] == ["told", "told too"], lines
