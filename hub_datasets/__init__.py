"""Uni-MER: labelled clips to one motion-grounded instruction dataset, and rendered clips with known truth."""
