"""Uni-MER rows for clips of any source: verdicts on labels, instructions, splits."""
