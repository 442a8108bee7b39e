"""Gives every person one name. Two names for one person would put the same face on both sides of a fold."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from .catalogue import PARTICIPANTS, SOURCES
from .preparation import SheetRow
from .tables import SheetError

# Words that are written before a person's number. Words of one line mean the same.
_WORDS = {
    word: group[0] for group in (("sub", "s", "subj", "subject"), ("p", "part", "participant")) for word in group
}


def name_subjects(rows: Sequence[SheetRow], template: str, file: str) -> list[str]:
    """Gives every participant of a sheet one name.

    Args:
        rows: The rows; their subjects are changed.
        template: Format of the source's names, such as "sub{:02d}"; "{}" if it has none.
        file: Name of the sheet in messages.

    Returns:
        Warnings about people whose name is spelled in several ways.

    Raises:
        SheetError: It is not clear who a subject is.
    """
    if template != "{}":
        for row in rows:
            row.cells["subject"] = numbered(row.cells["subject"], template)
        return []
    for row in rows:
        participants, slash, name = row.cells["subject"].partition("/")
        if slash and participants in PARTICIPANTS:
            other = next(spec.subject for spec in SOURCES.values() if spec.participants == participants)
            row.cells["subject"] = f"{participants}/{numbered(name, other)}"
    try:
        names = one_name_each(row.cells["subject"] for row in rows)
    except SheetError as error:
        raise SheetError(f"{file}: {error}") from None
    spellings: dict[str, list[str]] = {}
    for row in rows:
        name = names[row.cells["subject"]]
        spellings.setdefault(name, [])
        if row.cells["subject"] not in spellings[name]:
            spellings[name].append(row.cells["subject"])
        row.cells["subject"] = name
    return [
        f"{file}: the subjects {', '.join(map(repr, several))} are read as one person, {name!r}. If they are "
        "different people, give them names that differ by more than case, zeros and separators."
        for name, several in spellings.items()
        if len(several) > 1
    ]


def numbered(text: str, template: str) -> str:
    """The name of a numbered participant: 6, "006", "sub6", "Sub_06" and "s-6" are the same.

    Args:
        text: The cell.
        template: Format of the source's names, such as "sub{:02d}". "{}" leaves the cell unchanged.
    """
    match = re.fullmatch(r"(?:[^\W\d_]+[\W_]*)?(\d{1,18})", unicodedata.normalize("NFKC", text))
    return template.format(int(match[1])) if match and template != "{}" else text


def one_name_each(names: Iterable[str]) -> dict[str, str]:
    """Maps every spelling to the most frequent one of the same person, or to the first of those.

    Case, separators, leading zeros and words such as "sub" are ignored: "sub_01", "Sub 1" and "1" are one person.
    "p1" and "s1" are two people.

    Args:
        names: The name in every row.

    Raises:
        SheetError: There are people such as "p1" and "s1", so that it is not clear who "1" is.
    """
    counts = Counter(names)
    keys = {name: _key(name) for name in counts}
    groups = {key[0] for key in keys.values() if len(key) == 2 and key[0] in _WORDS.values()}
    people: dict[tuple[str, ...], list[str]] = {}
    for name, key in keys.items():
        if len(key) == 1 and key[0].isdecimal():
            same = [other for other, its in keys.items() if its in {(group, key[0]) for group in groups}]
            if len({keys[other] for other in same}) > 1:
                raise SheetError(
                    f"The subject {name!r} may be {' or '.join(map(repr, same))}. Write the same name for one person "
                    "in all rows."
                )
            key = keys[same[0]] if same else key
        people.setdefault(key, []).append(name)
    return {name: max(spellings, key=counts.__getitem__) for spellings in people.values() for name in spellings}


def _key(name: str) -> tuple[str, ...]:
    text = unicodedata.normalize("NFKC", name).casefold()
    text = re.sub(r"^(\d+)\.0+$", r"\1", text)  # a number that a program has written as 1.0
    parts = [part.lstrip("0") or "0" if part.isdecimal() else part for part in re.findall(r"[^\W\d_]+|\d+", text)]
    if len(parts) == 2 and parts[1].isdecimal():
        parts[0] = _WORDS.get(parts[0], parts[0])
    return tuple(parts) or (text,)
