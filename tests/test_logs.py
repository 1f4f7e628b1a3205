"""The package's loggers."""

import os
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
        # In a CI, transformers shows its records to the root logger too, for pytest.
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        command = [sys.executable, "-c", setup + SCRIPT]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        lines = [line for line in ran.stderr.splitlines() if "told" in line or "silenced" in line]
        assert lines == ["[transformers] told", "[transformers] told too"]
