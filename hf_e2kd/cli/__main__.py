"""`python -m hf_e2kd.cli`, and `accelerate launch -m hf_e2kd.cli` for several processes."""

from . import main

main()
