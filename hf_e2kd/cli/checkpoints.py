"""Checkpoints of a training that was interrupted: to go on from, to keep, and to tell of."""

from pathlib import Path
from shlex import quote

from transformers.trainer_utils import SaveStrategy
from transformers.utils import CONFIG_NAME

from ..experiments.experiment import Comparison
from ..experiments.results import RESULTS_FILE
from ..trainer.arguments import ExplanationDistillArguments
from ..trainer.preemption import RESUMED, last_checkpoint


def find_checkpoint(args: ExplanationDistillArguments, begins_anew: bool) -> None:
    """Find the checkpoint to go on from, and refuse to take an interrupted training's place without being told.

    Args:
        args: Training arguments; `resume_from_checkpoint` becomes a folder or None.
        begins_anew: True where a checkpoint that is there isn't asked for: it was said, or the training isn't resumed.

    Raises:
        ValueError: there is no checkpoint, or one of which nothing was said.
    """
    if args.resume_from_checkpoint is None:
        if not begins_anew and args.save_strategy != SaveStrategy.NO:
            _refuse_interrupted(args)
        return
    if args.resume_from_checkpoint.lower() == "true":
        args.resume_from_checkpoint = last_checkpoint(args.output_dir, (CONFIG_NAME, *RESUMED))
        if args.resume_from_checkpoint is None:
            raise ValueError(f"There is no checkpoint in '{args.output_dir}' to resume from.")


def _refuse_interrupted(args: ExplanationDistillArguments) -> None:
    """Refuse a folder with checkpoints that no results followed: the first new checkpoint would delete them."""
    checkpoint = last_checkpoint(args.output_dir, (CONFIG_NAME, *RESUMED))
    results = Path(args.output_dir, RESULTS_FILE)
    if checkpoint is None or (results.exists() and results.stat().st_mtime >= Path(checkpoint).stat().st_mtime):
        return
    raise ValueError(
        f"'{checkpoint}' is of a training that didn't end, and one that begins anew would delete it. Go on from there "
        "by --resume_from_checkpoint true, begin anew by --resume_from_checkpoint false, or choose another "
        "--output_dir."
    )


def interruption(args: ExplanationDistillArguments, comparison: Comparison, started: float) -> str:
    """Say what is left of an interrupted training; the folder may hold checkpoints of one before it."""
    if comparison.compare or comparison.seeds > 1:
        return "Interrupted. A comparison of several students isn't resumed; what is complete is in its output folder."
    checkpoint = last_checkpoint(args.output_dir, (CONFIG_NAME, *RESUMED), started) or args.resume_from_checkpoint
    if checkpoint is None:
        return "Interrupted before the first checkpoint; --save_strategy steps --save_steps N saves more often."
    return f"Interrupted. The same command with --resume_from_checkpoint {quote(str(checkpoint))} goes on from there."
