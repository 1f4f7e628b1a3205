"""Measures of a model's interpretability that run the model on data."""
