"""Negative flips: where the teacher is right and the student wrong, and who repeats whose mistakes."""
