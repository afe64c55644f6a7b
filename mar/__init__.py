"""Replication harness for masked autoregressive image generation (MAR, Li et al., NeurIPS 2024)."""

__version__ = "0.1.0"
