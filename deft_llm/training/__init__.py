"""Training: arguments, data, the parts of the model, and the trainer of `deft train`."""
