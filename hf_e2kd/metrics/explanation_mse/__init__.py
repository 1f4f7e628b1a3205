"""Explanation MSE: the mean squared difference of two models' superpixel maps."""
