"""What is wrong with a store."""


class StoreError(ValueError):
    """A store that is incomplete, damaged, or another than is needed. It says what to do."""
