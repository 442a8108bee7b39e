"""Rendered faces whose motion is known exactly, and datasets of them."""
