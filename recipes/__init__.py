"""One YAML a training or evaluation run, installed with the package."""
