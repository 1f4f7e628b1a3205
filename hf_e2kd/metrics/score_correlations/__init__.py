"""Score correlations: how alike a student and its teacher rank and score samples."""
