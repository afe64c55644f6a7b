"""Submitting, following and stopping jobs: the only package that knows submitit. It imports no torch."""
