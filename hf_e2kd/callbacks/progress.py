"""Progress bars that say what is being done."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import ProgressCallback, Trainer


class DescribedProgress(ProgressCallback):
    """The progress bars of transformers, with a description each, and closed after a measurement too."""

    doing = "Evaluation"
    """Description of the bar of an evaluation."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        super().on_train_begin(args, state, control, **keywords)
        if self.training_bar is not None:
            self.training_bar.set_description("Training")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        is_new = self.prediction_bar is None
        super().on_prediction_step(args, state, control, **keywords)
        if is_new and self.prediction_bar is not None:
            self.prediction_bar.set_description(self.doing)


def describe_progress(trainer: Trainer) -> None:
    """Put described bars in the place of a trainer's own; a notebook's, and those that a user has chosen, stay."""
    callbacks = trainer.callback_handler.callbacks
    for place, callback in enumerate(callbacks):
        if type(callback) is ProgressCallback:
            callbacks[place] = DescribedProgress(callback.max_str_len)


@contextmanager
def doing(trainer: Trainer, description: str) -> Iterator[None]:
    """Context of an evaluation whose bar has a description, and is closed at its end."""
    bars = [each for each in trainer.callback_handler.callbacks if isinstance(each, DescribedProgress)]
    for bar in bars:
        bar.doing = description
    try:
        yield
    finally:
        for bar in bars:
            bar.on_evaluate(trainer.args, trainer.state, trainer.control)
