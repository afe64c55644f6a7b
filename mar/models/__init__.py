"""Backbones: tokens so far -> a condition z for each token to come."""
