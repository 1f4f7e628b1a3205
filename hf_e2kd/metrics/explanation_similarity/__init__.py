"""Explanation similarity: how much the student looks where the teacher looks."""
