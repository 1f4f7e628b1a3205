"""Localisation IoU: how well the strong part of an explanation covers the object."""
