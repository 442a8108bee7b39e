"""The manifest and the data card of a built dataset, with the licences of its sources."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from huggingface_hub import DatasetCardData

from ..sources.catalogue import SOURCES
from ..sources.sharing_policy import licence_of
from ..unimer.splits import near_duplicates

DATA = "data"  # folder of the Parquet files
MANIFEST_VERSION = 1
_SIGNATURE_BITS = 510


def make_manifest(job: Mapping[str, Any], accounts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Makes the manifest of a build. It does not contain absolute paths.

    Args:
        job: The plan of the build, `job.json`.
        accounts: The JSON files of the shards.
    """
    drops = [
        {"source": name, "stage": "sheet", **drop}
        for name, report in job["reports"].items()
        for drop in report["drops"]
    ]
    drops += [
        {
            "source": drop["clip_id"].partition("/")[0],
            "stage": "frames",
            "sheet": drop["sheet"],
            "row": drop["row"],
            "key": drop["clip_id"],
            "reason": drop["reason"],
        }
        for account in accounts
        for drop in account["drops"]
    ]
    clips, subjects = _sum(accounts, "clips"), defaultdict(set)
    splits: dict[str, dict[str, Any]] = {}
    for account in accounts:
        split = splits.setdefault(account["split"], {"clips": 0, "subjects": set()})
        split["clips"] += account["rows"]
        for source, people in account["subjects"].items():
            subjects[source] |= set(people)
            split["subjects"] |= set(people)
    dropped = Counter(drop["source"] for drop in drops)
    sources = {}
    for name, report in job["reports"].items():
        licence = licence_of(name)
        sources[name] = {
            "title": report["title"] or name,
            "licence": None if licence is None else {**asdict(licence), "accepted": True},
            "reader": report["reader"],
            "sheets": report["sheets"],
            "release": report["version"],
            "rows_in_sheets": report["rows"],
            "left_out": report["left_out"],
            "clips": clips[name],
            "subjects": len(subjects[name]),
            "dropped": dropped[name],
            "errata": report["errata"],
            "quality": report["quality"],
            "warnings": report["warnings"],
            "links": report["links"],
            "labels": job["labels"].get(name, {}),
        }
    settings = dict(job["settings"])
    settings["face_source"] = _without_folder(settings["face_source"])
    settings["face_source_of"] = {
        name: _without_folder(value) for name, value in (settings["face_source_of"] or {}).items()
    }
    return {
        "manifest": MANIFEST_VERSION,
        "versions": job["versions"],
        "settings": settings,
        "emotion_words": job["arguments"]["emotion words"],
        "licences_accepted": job["arguments"]["accepted licences"],
        "rows": sum(clips.values()),
        "splits": {
            name: {"clips": part["clips"], "subjects": len(part["subjects"])}
            for name, part in splits.items()
            if part["clips"]
        },
        "sources": sources,
        "conversations": sum(account["conversations"] for account in accounts),
        "rewriting": dict(sorted(_sum(accounts, "rewriting").items())),
        "verdicts": _verdicts(_sum(accounts, "verdicts")),
        "quality": dict(sorted(_sum(accounts, "quality").items())),
        "not_measurable": dict(sorted(_sum(accounts, "not_measurable").items())),
        "near_duplicates": _near_duplicates(accounts),
        "drops": drops,
    }


def _sum(accounts: Sequence[Mapping[str, Any]], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for account in accounts:
        total.update(account[name])
    return total


def _verdicts(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = defaultdict(dict)
    for key in sorted(counts):
        code, verdict = key.split(" ")
        table[code][verdict] = counts[key]
    return dict(sorted(table.items(), key=lambda item: (item[0].rstrip("0123456789"), int(item[0].lstrip("AUDM")))))


def _near_duplicates(accounts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Finds similar clips of different people. Folds separate people, so such pairs may be on two sides of a fold."""
    people: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    splits = {}
    for account in accounts:
        for clip, (subject, text) in account["signatures"].items():
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:_SIGNATURE_BITS]
            people[subject][clip] = bits.astype(bool)
            splits[clip] = account["split"]
    return [
        {
            "first": pair.first,
            "second": pair.second,
            "splits": [splits[pair.first], splits[pair.second]],
            "distance": round(pair.distance, 4),
        }
        for pair in near_duplicates(people)
    ]


def _without_folder(face_source: str) -> str:
    name, colon, path = face_source.partition(":")
    return f"{name}{colon}{path.replace(chr(92), '/').rsplit('/', 1)[-1]}"


# --- Data card ------------------------------------------------------------------------------------------------------


def make_card(manifest: Mapping[str, Any]) -> str:
    """Writes the README.md of the dataset folder: front matter for the Hub and `load_dataset`, text and tables."""
    sources = manifest["sources"]
    licensed = [item["title"] for item in sources.values() if item["licence"] is not None]
    data = DatasetCardData(
        license="other",
        license_name="terms-of-the-sources",
        pretty_name="Uni-MER",
        task_categories=["video-text-to-text"],
        tags=["micro-expression", "action-units", "optical-flow"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"{DATA}/{name}-*.parquet"} for name in manifest["splits"]],
            }
        ],
    )
    parts = [f"---\n{data.to_yaml()}\n---\n# Uni-MER\n"]
    what = (
        "The files contain flow and labels, and no pixels."
        if manifest["settings"]["features_only"]
        else ("The files contain video, flow and labels. The clips show people's faces.")
    )
    clips, conversations = manifest["rows"], manifest["conversations"]
    parts.append(
        f"{clips} micro-expressions with {conversations} questions and answers. {what} Answers name an action unit "
        "only if the optical flow agrees with its label. Every answer was parsed, and gives the facts it was written "
        "from. Flow is in percent of the face crop's width, +x right, +y down. Left and right are the subject's.\n"
    )
    lines = ["| source | clips | subjects | rows in the sheets | left out | dropped |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {item['title']} (`{name}`) | {item['clips']} | {item['subjects']} | {item['rows_in_sheets']} | "
        f"{sum(item['left_out'].values())} | {item['dropped']} |"
        for name, item in sources.items()
    ]
    lines += ["", "| split | clips | subjects |", "|---|---|---|"]
    lines += [f"| {name} | {part['clips']} | {part['subjects']} |" for name, part in manifest["splits"].items()]
    parts.append("\n".join(lines) + "\n")
    parts.append(
        "Macro-expressions are left out. `manifest.json` lists why each row was dropped, which errata were applied, "
        "the SHA-256 of the sheets, and the class of each emotion word.\n"
    )
    parts.append(_conventions(sources))
    parts.append(_licences(sources, licensed))
    if manifest["near_duplicates"]:
        pairs = "\n".join(
            f"- {pair['first']} and {pair['second']} ({pair['distance']:.3f} of the bits differ)"
            for pair in manifest["near_duplicates"]
        )
        parts.append(f"## Look-alikes\n\nClips of different subjects that look alike:\n\n{pairs}\n")
    parts.append(
        "## What it is not for\n\nA class is the name that an annotation convention gives to a movement. It does not "
        "tell what a person feels. Do not use the dataset to judge applicants, employees, pupils, travellers or "
        "suspects, or to detect lies.\n"
    )
    return "\n".join(parts)


def _conventions(sources: Mapping[str, Any]) -> str:
    titles = list(dict.fromkeys(item["title"] for item in sources.values()))
    text = (
        "## Label conventions\n\nEmotion words follow the convention of their source. Every question that depends on "
        f"a convention names it: {', '.join(titles)}. Conventions contradict each other: lowered brows with tightened "
        "lids (AU4+7) are disgust in CASME II and anger in SAMM. Do not merge the words of two sources.\n"
    )
    words = "".join(
        f"| {item['title']} | {word or '(none)'} | {', '.join(entry['emotions']) or '–'} | {entry['coarse'] or '–'} | "
        f"{entry['clips']} |\n"
        for item in sources.values()
        for word, entry in item["labels"].items()
    )
    return f"{text}\n| convention | its word | class | coarse class | labelled clips |\n|---|---|---|---|---|\n{words}"


def _licences(sources: Mapping[str, Any], licensed: Sequence[str]) -> str:
    if not licensed:
        return "## Licence\n\nThese are the owner's own recordings. Ask the owner for permission.\n"
    text = (
        "## Licences\n\nThis dataset is derived from licensed recordings. To use it, you need your own licence of "
        "each source. The summaries below do not replace your signed copy.\n"
    )
    for item in sources.values():
        licence = item["licence"]
        if licence is None:
            continue
        text += f"\n**{item['title']}.** {licence['summary']}\n"
        text += "".join(f"\n- Clause {number}: {clause}" for number, clause in licence["clauses"])
        text += "\n" if licence["clauses"] else ""
    return text


SHARING = "\n## Sharing\n\n"


def with_sharing_note(card: str, repository: str, how: str, licensed: Sequence[str], reason: str) -> str:
    """Adds the section about sharing to a card, or replaces it.

    Args:
        card: Text of the card.
        repository: Hub repository.
        how: "public", "gated" or "private".
        licensed: Names of the licensed sources.
        reason: Why the licences allow the upload.

    Returns:
        The new text of the card.
    """
    titles = ", ".join(dict.fromkeys(SOURCES[name].title for name in licensed)) or "own recordings"
    note = (
        f"The rows are derived from {titles}. They were uploaded to the {how} repository `{repository}` with this "
        f"statement of permission: {reason}\n"
    )
    return card.split(SHARING)[0].rstrip("\n") + "\n" + SHARING + note
