"""The version of the package; it depends on nothing, so that every room may state it."""

__version__ = "0.1.0"
