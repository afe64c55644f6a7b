"""Tokenizers: image <-> tokens."""

from mar.tokenizers.autoencoder import Tokenizer, load

__all__ = ["Tokenizer", "load"]
