"""The error of what can't be opened."""


class TransposeError(ValueError):
    """A model, one of its layers or a batch of which no transposed pass is written.

    Who can take the model's own derivative in its place catches this error, and no other.
    """
