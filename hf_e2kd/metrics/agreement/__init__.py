"""Agreement: how often the student chooses the teacher's class."""
