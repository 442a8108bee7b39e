"""Build a dataset folder from records on any number of processes, inspect it, and publish it."""
