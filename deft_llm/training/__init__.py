"""Training: arguments, data, the parts of the model, and the trainer behind `deft train`."""
