"""Uni-MER rows: what is judged, written and split, whatever the clips came from."""
