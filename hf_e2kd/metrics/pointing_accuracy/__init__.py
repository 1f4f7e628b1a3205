"""Pointing accuracy: whether an explanation is strongest on the object."""
