"""Data to distil on: the embedded sets, and the Stanford Sentiment Treebank from disk."""

from hf_e2kd.data.digits import digits_on_textures
from hf_e2kd.data.reviews import reviews_with_hints, train_tokenizer
from hf_e2kd.data.sst import load_sst

__all__ = ["digits_on_textures", "load_sst", "reviews_with_hints", "train_tokenizer"]
