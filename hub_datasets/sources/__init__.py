"""Readers for licensed data sets: coding sheets and frame folders become records of one form."""
