"""Micro-expression recognition with three disentangled experts and a language model.

`modeling_deft` holds the model and `processing` its processor, `hub_datasets` makes the data, `training`, `evaluation`
and `sharing` do what their names say. `TINY` is the folder of a small model that comes with the package:
`pipeline("video-text-to-text", model=deft_llm.TINY, trust_remote_code=True)`.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name != "TINY":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deft_llm.tiny_model import complete_folder

    return str(complete_folder())
