"""Superpixel overlap: the most important superpixels that two explanations share, with equal signs."""
