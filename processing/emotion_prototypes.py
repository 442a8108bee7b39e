"""The action units that make an emotion, by convention."""

from __future__ import annotations

# Emotions that annotators assign to sets of action units. The two conventions of rendered data contradict each other
# on purpose, as published data sets do: lowered brows are anger in the first and disgust in the second.
CONVENTIONS: dict[str, dict[str, tuple[tuple[str, ...], ...]]] = {
    "synthetic": {
        "happiness": (("AU12",), ("AU6", "AU12"), ("AU6", "AU12", "AU26")),
        "surprise": (("AU1", "AU2"), ("AU2",), ("AU1", "AU2", "AU26"), ("AU1", "AU2", "AU5")),
        "sadness": (("AU15",), ("AU15", "AU17"), ("AU1", "AU15")),
        "disgust": (("AU9",), ("AU4", "AU9"), ("AU9", "AU17")),
        "anger": (("AU4",), ("AU4", "AU7"), ("AU4", "AU17")),
    },
    "synthetic-b": {
        "happiness": (("AU12",), ("AU6", "AU12"), ("AU6", "AU12", "AU26")),
        "surprise": (("AU1", "AU2"), ("AU2",), ("AU1", "AU2", "AU26"), ("AU1", "AU2", "AU5")),
        "sadness": (("AU1",), ("AU1", "AU17"), ("AU1", "AU15")),
        "disgust": (("AU4",), ("AU4", "AU7"), ("AU4", "AU17")),
        "anger": (("AU9",), ("AU4", "AU9"), ("AU9", "AU17")),
    },
}
# EMFACS. Micro-expressions show one or two units of a prototype, so each unit alone makes the emotion possible.
_EMFACS = {
    "happiness": ("AU6", "AU12"),
    "sadness": ("AU1", "AU4", "AU15"),
    "surprise": ("AU1", "AU2", "AU5", "AU26"),
    "fear": ("AU1", "AU2", "AU4", "AU5", "AU7", "AU20", "AU26"),
    "anger": ("AU4", "AU5", "AU7", "AU23"),
    "disgust": ("AU9", "AU15", "AU16", "AU17"),
    "contempt": ("AU12", "AU14"),
}


def prototypes_of(convention: str) -> tuple[str, dict[str, tuple[tuple[str, ...], ...]]]:
    """What a convention reads from action units.

    Args:
        convention (`str`): Label convention. One without prototypes of its own gets those of FACS.

    Returns:
        The convention in words, and emotion → sets of units. An emotion is possible if all units of a set are visible.
    """
    if convention in CONVENTIONS:
        return f"the convention of {convention}", CONVENTIONS[convention]
    return "the prototypes of FACS", {name: tuple((code,) for code in codes) for name, codes in _EMFACS.items()}
