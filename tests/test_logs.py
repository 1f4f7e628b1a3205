"""The package's loggers."""

import os
import subprocess
import sys

SCRIPT = """
import logging as loggers
from transformers.utils import logging
from hf_e2kd.logs import get_logger
for _ in range(2):
    logging.set_verbosity_warning()
    get_logger("hf_e2kd.room.file").warning("told")
    logging.set_verbosity_error()
    get_logger("hf_e2kd.room.file").warning("silenced")
    get_logger("hf_e2kd.room.file").error("told too")
    loggers.basicConfig()
"""


def test_the_verbosity_of_transformers():
    """Prevents: warnings in spite of `set_verbosity_error()`, or shown twice where a script sets up logging."""
    # In a CI, transformers shows its records to the root logger too, for pytest.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    lines = [line for line in ran.stderr.splitlines() if "told" in line or "silenced" in line]
    # Before the script sets up logging, and after it.
    assert lines == 2 * ["[transformers] told", "[transformers] told too"]
