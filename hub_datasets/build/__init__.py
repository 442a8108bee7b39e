"""From records to a dataset folder: planned, measured on any number of processes, inspected and published."""
