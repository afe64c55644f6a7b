"""Evaluation in three steps: images -> features -> statistics -> metrics."""
