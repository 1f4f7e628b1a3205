"""Data to distil on: the embedded set."""

from hf_e2kd.data.digits import digits_on_textures

__all__ = ["digits_on_textures"]
