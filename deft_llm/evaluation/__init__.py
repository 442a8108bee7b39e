"""Evaluation: protocols whose training half sees the training rows only, metrics, and the report."""
