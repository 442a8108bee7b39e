"""The action units that make an emotion, by convention, and the coarse class of an emotion."""

from __future__ import annotations

from collections.abc import Collection

# Normalised word -> coarse class. Anger to sadness and repression are negative as in the MEGC 2019 composite
# (SMIC, CASME II, SAMM). "others" is the fourth coarse class of CAS(ME)^3. MEGC does not cover CASME's "tense", which
# is neither pleasant nor unpleasant and counts as "others".
COARSE_EMOTION: dict[str, str] = {
    "anger": "negative",
    "contempt": "negative",
    "disgust": "negative",
    "fear": "negative",
    "sadness": "negative",
    "repression": "negative",
    "happiness": "positive",
    "surprise": "surprise",
    "tense": "others",
    "others": "others",
    # Used by sources that give only the coarse class: SMIC, CAS(ME)^2, CAS(ME)^3 part C, 4DME.
    "negative": "negative",
    "positive": "positive",
}

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


def sets_of(emotion: str, convention: str) -> tuple[tuple[str, ...], ...]:
    """The sets of units that make an emotion possible; those of a coarse class are the sets of its emotions.

    Args:
        emotion (`str`): Emotion or coarse class, in lower case.
        convention (`str`): Label convention.
    """
    _, prototypes = prototypes_of(convention)
    if emotion in prototypes:
        return prototypes[emotion]
    members = [sets for name, sets in prototypes.items() if COARSE_EMOTION[name] == emotion]
    return tuple(dict.fromkeys(codes for sets in members for codes in sets))


def emotion_of(units: Collection[str], convention: str) -> str | None:
    """The emotion of which most units are there, as an annotator reads a set that is not a prototype itself.

    Args:
        units (`Collection[str]`): Codes of the visible units.
        convention (`str`): Label convention.

    Returns:
        The emotion with the largest prototype among the units; `None` if there is none, or if two are as large.
    """
    _, prototypes = prototypes_of(convention)
    sizes = {
        name: max((len(codes) for codes in sets if set(codes) <= set(units)), default=0)
        for name, sets in prototypes.items()
    }
    most = max(sizes.values())
    best = [name for name, size in sizes.items() if size == most]
    return best[0] if most and len(best) == 1 else None
