"""Protocols as papers state them: which rows of which data sets, with which classes, and the number of clips.

Only the table. `splits.select_rows` applies it, and docs/evaluation.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """Numbers of clips that somebody has published.

    Args:
        where (`str`): Who has published them.
        clips (`tuple[int, ...]`): Clips of each class, in the order of the protocol's classes.
        subjects (`int | None`, *optional*): Subjects with such a clip, if that is published too.
    """

    where: str
    clips: tuple[int, ...]
    subjects: int | None = None

    def __str__(self) -> str:
        people = "" if self.subjects is None else f" of {self.subjects} subjects"
        return f"{'/'.join(map(str, self.clips))}{people}"


@dataclass(frozen=True)
class PublishedProtocol:
    """Which rows are used, and as what.

    Args:
        name (`str`): Name on the command line.
        title (`str`): Name in reports.
        classes (`tuple[str, ...]`): The classes, in the order of the counts.
        words (`Mapping[str, Mapping[str, str]]`): Source → emotion word, as `normalise_emotion` gives it → class.
        left_out (`Mapping[str, tuple[str, ...]]`): Source → emotion words whose rows the protocol leaves out.
        published (`Mapping[str, tuple[Published, ...]]`): Source → published numbers. Releases differ, so there may be
            several.
        without (`Mapping[str, str]`, *optional*): Source/subject/clip → why it is left out although its word is used.
        folds (`int | None`, *optional*): Number of folds; by default one per subject.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    words: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, tuple[str, ...]]
    published: Mapping[str, tuple[Published, ...]]
    without: Mapping[str, str] = field(default_factory=dict)
    folds: int | None = None


def _each(*words: str) -> dict[str, str]:
    """Every word is a class of its own."""
    return {word: word for word in words}


def _as(name: str, *words: str) -> dict[str, str]:
    """All words are one class."""
    return dict.fromkeys(words, name)


_THREE = ("negative", "positive", "surprise")  # in the order of the integer labels in use
_COARSE = {**_as("positive", "happiness"), **_each("surprise")}
_SMIC = {"smic-hs": (Published("SMIC (Li et al., 2013) and MEGC 2019", (70, 51, 43), 16),)}
_CASME2 = {**_as("negative", "disgust", "repression"), **_COARSE}
_CASME2_MEGC = {"casme2": (Published("MEGC 2019", (88, 32, 25), 24),)}
_CASME2_WITHOUT = {
    "casme2/sub04/EP12_01f": "left out by the organisers of MEGC 2019: no usable apex",
    "casme2/sub05/EP09_05f": "left out by the organisers of MEGC 2019: no usable apex",
}
_SAMM = {**_as("negative", "anger", "contempt", "disgust", "fear", "sadness"), **_COARSE}
_CAS_ME3 = {**_as("negative", "anger", "disgust", "fear", "sadness"), **_COARSE}
_CAS_ME3_SHEET = "part A, released sheet v2"

_TABLE = (
    PublishedProtocol(
        "casme2-5",
        "CASME II, five classes",
        ("happiness", "surprise", "disgust", "repression", "others"),
        {"casme2": _each("happiness", "surprise", "disgust", "repression", "others")},
        {"casme2": ("fear", "sadness")},
        {
            "casme2": (
                Published("released sheet of 255 rows", (32, 25, 63, 27, 99)),
                Published("CASME II (Yan et al., 2014)", (33, 25, 60, 27, 102)),
            )
        },
    ),
    PublishedProtocol(
        "casme2-3",
        "CASME II, three classes",
        _THREE,
        {"casme2": _CASME2},
        {"casme2": ("fear", "sadness", "others")},
        _CASME2_MEGC,
        _CASME2_WITHOUT,
    ),
    PublishedProtocol(
        "samm-5",
        "SAMM, five classes",
        ("anger", "contempt", "happiness", "surprise", "others"),
        {"samm": _each("anger", "contempt", "happiness", "surprise", "others")},
        {"samm": ("disgust", "fear", "sadness")},
        {"samm": (Published("released sheet of 159 rows", (57, 12, 26, 15, 26)),)},
    ),
    PublishedProtocol("smic-3", "SMIC-HS, three classes", _THREE, {"smic-hs": _each(*_THREE)}, {}, _SMIC),
    PublishedProtocol(
        "mmew-6",
        "MMEW, six classes",
        ("happiness", "surprise", "anger", "disgust", "fear", "sadness"),
        {"mmew": _each("happiness", "surprise", "anger", "disgust", "fear", "sadness")},
        {"mmew": ("others", "repression")},
        {"mmew": (Published("MMEW (Ben et al., 2021)", (36, 89, 8, 72, 16, 13)),)},
    ),
    PublishedProtocol(
        "megc2019",
        "MEGC 2019 composite",
        _THREE,
        {"smic-hs": _each(*_THREE), "casme2": _CASME2, "samm": _SAMM},
        {"casme2": ("fear", "sadness", "others"), "samm": ("others",)},
        {**_SMIC, **_CASME2_MEGC, "samm": (Published("MEGC 2019", (92, 26, 15), 28),)},
        _CASME2_WITHOUT,
    ),
    PublishedProtocol(
        "cas-me3-3",
        "CAS(ME)^3, three classes",
        _THREE,
        {"cas-me3a": _CAS_ME3},
        {"cas-me3a": ("others",)},
        {
            "cas-me3a": (
                Published(_CAS_ME3_SHEET, (457, 55, 187)),
                Published("paper of HTNet", (508, 64, 201)),
            )
        },
    ),
    PublishedProtocol(
        "cas-me3-4",
        "CAS(ME)^3, four classes",
        (*_THREE, "others"),
        {"cas-me3a": {**_CAS_ME3, **_each("others")}},
        {},
        {"cas-me3a": (Published(_CAS_ME3_SHEET, (457, 55, 187, 161), 94),)},
    ),
    PublishedProtocol(
        "cas-me3-7",
        "CAS(ME)^3, seven classes",
        ("anger", "disgust", "fear", "happiness", "others", "sadness", "surprise"),
        {"cas-me3a": _each("anger", "disgust", "fear", "happiness", "others", "sadness", "surprise")},
        {},
        {"cas-me3a": (Published(_CAS_ME3_SHEET, (64, 250, 86, 55, 161, 57, 187), 94),)},
    ),
    PublishedProtocol(
        "dfme-7",
        "DFME, seven classes",
        ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"),
        {"dfme": _each("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")},
        {"dfme": ("others",)},
        {"dfme": (Published("the three sets of CCAC 2024", (241, 171, 735, 365, 311, 359, 447), 259),)},
        folds=10,
    ),
)
PUBLISHED: dict[str, PublishedProtocol] = {protocol.name: protocol for protocol in _TABLE}


def table() -> str:
    """The protocols as a Markdown table, one row per protocol and source."""
    lines = [
        "| protocol | source | classes, and the emotion words in them | words left out | folds | published clips |",
        "|---|---|---|---|---|---|",
    ]
    for protocol in PUBLISHED.values():
        for source, classes in protocol.words.items():
            cells = (
                f"`{protocol.name}`",
                source,
                ", ".join(_class_and_words(name, classes) for name in protocol.classes),
                ", ".join(protocol.left_out.get(source, ())) or "none",
                "one per subject" if protocol.folds is None else f"{protocol.folds}, of subjects",
                "; ".join(f"{item}: {item.where}" for item in protocol.published[source]),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _class_and_words(name: str, classes: Mapping[str, str]) -> str:
    words = [word for word, other in classes.items() if other == name]
    return name if words == [name] else f"{name} ({', '.join(words)})"
