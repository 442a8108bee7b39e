"""Rendered faces with exactly known motion, and datasets of them."""
