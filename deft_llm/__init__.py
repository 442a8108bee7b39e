"""Micro-expression recognition with three disentangled experts and a language model.

`modeling_deft` holds the model and `processing` its processor, `hub_datasets` makes the data, `training`, `evaluation`
and `sharing` do what their names say.
"""

__version__ = "0.1.0"
