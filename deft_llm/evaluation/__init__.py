"""Evaluation: protocols in which training only sees the training rows, metrics, and the report."""
