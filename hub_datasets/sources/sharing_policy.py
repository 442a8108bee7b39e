"""What may be shared with whom: one policy for rows and for the models that are trained on them.

It stands in the lowest folder that knows the licences of the data sets. Rows are built and pushed from `hub_datasets`,
which may not import `deft_llm.training` or `deft_llm.sharing`; these may import it, so that all of them ask here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .catalogue import PARTICIPANTS, SOURCES, Licence

SYNTHETIC, SYNTHETIC_B = RENDERED = ("synthetic", "synthetic-b")
"""The sources whose faces are rendered, and therefore nobody's; each is a label convention as well."""
VISIBILITIES = ("public", "gated", "private")
"""Who sees a repository, from everybody to its owner."""

# What is asked of somebody who shares, by what is shared and whose recordings it comes from. Kinds that are not named
# are free. Rows show people, or their motion and labels, and a model does not; so rows are held closer.
_STATEMENT, _NEVER = "statement", "never"
_ASKED: dict[str, dict[str, dict[str, str]]] = {
    "rows": {
        "licensed": {"public": _NEVER, "gated": _STATEMENT, "private": _STATEMENT},
        "own": {"public": _STATEMENT, "gated": _STATEMENT},
    },
    "model": {
        "licensed": {"public": _STATEMENT, "gated": _STATEMENT},
        "own": {"public": _STATEMENT, "gated": _STATEMENT},
    },
}


class LicenceError(ValueError):
    """The terms of recordings stand against what was asked for."""


class LicenceNotAcceptedError(LicenceError):
    """Nobody has said that they hold the licence of a data set."""


class NotShareableError(LicenceError):
    """No statement allows this; another visibility may."""


class StatementNeededError(LicenceError):
    """Whoever shares has to say why the terms allow it. `terms` is what the recordings are under, on one line."""

    def __init__(self, message: str, terms: str):
        super().__init__(message)
        self.terms = terms


class RepositoryTooOpenError(LicenceError):
    """The repository exists, and more people see it than was asked for."""


# --- Terms ----------------------------------------------------------------------------------------------------------


def licence_of(source: str) -> Licence | None:
    """The terms of a licensed data set; `None` for anybody's own recordings.

    Args:
        source (`str`): the name of the source.
    """
    return SOURCES[source].licence if source in SOURCES else None


def licensed_sources(sources: Iterable[str], subjects: Iterable[str]) -> list[str]:
    """The data sets whose licences rows are under: those of their sources, and of people who take part in them.

    Args:
        sources (`Iterable[str]`): names of the rows' sources.
        subjects (`Iterable[str]`): the rows' subjects, `participants/subject`.
    """
    people = {subject.partition("/")[0] for subject in subjects} & PARTICIPANTS
    named = set(sources)
    found = [name for name in SOURCES if name in named]
    covered = {SOURCES[name].participants for name in found}
    found += [
        next(name for name, spec in SOURCES.items() if spec.participants == group)
        for group in sorted(people - covered)
    ]
    return found


def terms_of(
    people: Mapping[str, Collection[str]], built: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Title, kind and terms of each source.

    Args:
        people (`Mapping[str, Collection[str]]`): for each source the subjects of its rows. Participants of a licensed
            data set bring its licence, whatever their rows are called.
        built (`Mapping[str, Mapping]`, *optional*): the sources in the manifest of a built dataset, which are
            somebody's recordings, whatever they are called.

    Returns:
        `dict[str, dict]`: for each source `title`, `kind` (licensed, own or rendered), `terms` in a sentence, and for
        licensed ones `clauses`, pairs of number and text.
    """
    built = built or {}
    terms = {}
    for name, subjects in people.items():
        licensed = licensed_sources([name], subjects)
        if licensed:
            specs = [SOURCES[item] for item in licensed]
            entry: dict[str, Any] = {"title": _titles(licensed), "kind": "licensed"}
            entry["terms"] = " ".join(dict.fromkeys(spec.licence.summary for spec in specs))
            entry["clauses"] = [list(clause) for spec in specs for clause in spec.licence.clauses]
        elif name in RENDERED and name not in built:
            entry = {"title": f"rendered faces ({name})", "kind": "rendered", "terms": "Rendered; nobody's face."}
        else:
            title = built.get(name, {}).get("title") or name
            entry = {"title": title, "kind": "own", "terms": "Own recordings; ask their owner."}
        terms[name] = entry
    return terms


def is_bound(terms: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether any of the recordings is somebody's.

    Args:
        terms (`Mapping[str, Mapping]`): what `terms_of` returns.
    """
    return any(entry["kind"] != "rendered" for entry in terms.values())


# --- The policy -----------------------------------------------------------------------------------------------------


def check_accepted(sources: Iterable[str], accepted: Collection[str]) -> None:
    """Raises `LicenceNotAcceptedError` naming the flags that are missing and the terms they stand for.

    Args:
        sources (`Iterable[str]`): names of the sources that are read.
        accepted (`Collection[str]`): names of those whose licence the user holds and accepts.
    """
    missing = [name for name in sources if licence_of(name) is not None and name not in accepted]
    if missing:
        terms = "\n".join(f"  {SOURCES[name].title}: {licence_of(name).summary}" for name in missing)
        flags = " ".join(f"--accept-licence {name}" for name in missing)
        raise LicenceNotAcceptedError(
            f"Say that you hold and accept the licence of each data set: {flags}\n{terms}\nThe text is the agreement "
            "that you or your laboratory signed to get the data; its authors' page has it."
        )


def check_may_share(
    what: str, name: str, terms: Mapping[str, Mapping[str, Any]], visibility: str, statement: str | None
) -> None:
    """Raises an error where rows or a model may not go into a repository of that visibility.

    Args:
        what (`str`): "rows" or "model".
        name (`str`): what errors call it, such as its folder.
        terms (`Mapping[str, Mapping]`): what `terms_of` returns for the recordings it comes from.
        visibility (`str`): one of `VISIBILITIES`.
        statement (`str`, *optional*): why the terms allow it, in the words of whoever shares.

    Raises:
        NotShareableError: no statement allows it.
        StatementNeededError: `statement` is missing.
        ValueError: `visibility` is unknown.
    """
    if visibility not in VISIBILITIES:
        raise ValueError(f"`visibility` must be one of {', '.join(VISIBILITIES)}, not {visibility!r}.")
    asked = {source: _ASKED[what].get(entry["kind"], {}).get(visibility) for source, entry in terms.items()}
    bound = [terms[source] for source in asked if asked[source] is not None]
    never = [terms[source] for source in asked if asked[source] == _NEVER]
    if never:
        raise NotShareableError(
            f"{name} holds rows derived from {_joined(never)}; they cannot go to a {visibility} repository.\n"
            f"{_with_clauses(never)}\nChoose --private or --gated and say with --i-may-share why your licences allow "
            "that."
        )
    if not bound or (statement or "").strip():
        return
    line = "; ".join(f"{entry['title']}: {entry['terms']}" for entry in bound)
    licensed = [entry for entry in bound if entry["kind"] == "licensed"]
    if what == "model":
        message = (
            f"{name} was trained on recordings whose terms bind it ({line}). Choose --private, or say with "
            f"--i-may-share REASON why they allow a {visibility} repository."
        )
    elif licensed:
        message = (
            f"{name} holds rows derived from {_joined(licensed)}.\n{_with_clauses(licensed)}\nIf your licences allow "
            f"a {visibility} repository all the same, say why: --i-may-share REASON. It is written into the data card."
        )
    else:
        message = (
            f"{name} holds recordings of {_joined(bound)}, whose terms are not known here. Choose --private, or say "
            "with --i-may-share why they may be shared. It is written into the data card."
        )
    raise StatementNeededError(message, line)


def check_repository(
    repo_id: str, terms: Mapping[str, Mapping[str, Any]], visibility: str, *, private: bool, gated: Any
) -> None:
    """Raises `RepositoryTooOpenError` where more people see an existing repository than was asked for.

    Args:
        repo_id (`str`): the repository.
        terms (`Mapping[str, Mapping]`): what `terms_of` returns; rendered faces may be anywhere.
        visibility (`str`): what was asked for, one of `VISIBILITIES`.
        private (`bool`): whether the repository is private.
        gated (`Any`): whether it is gated, as the Hub says it.
    """
    found = "private" if private else "gated" if gated else "public"
    if is_bound(terms) and VISIBILITIES.index(found) < VISIBILITIES.index(visibility):
        raise RepositoryTooOpenError(
            f"{repo_id} exists and is {found}, not {visibility}. Change that on the Hub first, or choose another "
            "repository."
        )


def _titles(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(SOURCES[name].title for name in names))


def _joined(entries: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(entry["title"] for entry in entries))


def _with_clauses(entries: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for entry in entries:
        lines.append(f"  {entry['title']}: {entry['terms']}")
        lines += [f"    {number}. {text}" for number, text in entry["clauses"]]
    return "\n".join(lines)
