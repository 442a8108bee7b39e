"""Assemble the dataset folder from finished shards."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from deft_llm.files import publish_folder, write_whole

from ..unimer.splits import check_written
from .manifest import DATA, make_card, make_manifest
from .plan import reasons_of
from .settings import BuildError, NothingBuiltError


def finish(work: Path, out: Path) -> dict[str, Any]:
    """Assembles the dataset folder from the shards and moves it to `out`. An interrupted call starts again.

    Args:
        work: Work folder of the build.
        out: The dataset folder.

    Returns:
        The manifest.

    Raises:
        BuildError: A shard is not finished, or its file was changed.
        NothingBuiltError: No clip could be measured.
    """
    job = json.loads((work / "job.json").read_text(encoding="utf-8"))
    accounts = []
    for number in range(len(job["shards"])):
        path = work / "shards" / f"{number:05d}.json"
        if not path.exists():
            raise BuildError(f"Shard {number} is not finished. See {work / 'logs'}, then run the command again.")
        accounts.append({**json.loads(path.read_text(encoding="utf-8")), "number": number})
    manifest = make_manifest(job, accounts)
    if not manifest["rows"]:
        drops = manifest["drops"]
        shutil.rmtree(work)
        raise NothingBuiltError(f"No clip could be measured: {reasons_of(drops)}.", drops)
    final = work / "final"
    shutil.rmtree(final, ignore_errors=True)
    (final / DATA).mkdir(parents=True)
    filled = [account for account in accounts if account["rows"]]
    totals, counters = Counter(account["split"] for account in filled), Counter()
    for account in filled:
        shard, split = work / "shards" / f"{account['number']:05d}.parquet", account["split"]
        if shard.stat().st_size != account["bytes"]:
            raise BuildError(
                f"{shard} was changed. Delete it and {account['number']:05d}.json in the same folder, then run the "
                "command again."
            )
        target = final / DATA / f"{split}-{counters[split]:05d}-of-{totals[split]:05d}.parquet"
        counters[split] += 1
        try:
            os.link(shard, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(shard, target)
    check_written(final / DATA)
    write_whole(final / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    write_whole(final / "README.md", make_card(manifest))
    write_whole(work / "finished", b"")
    publish_folder(final, out)
    return clean_up(work, out)


def clean_up(work: Path, out: Path) -> dict[str, Any]:
    """Deletes the work folder of a finished build and returns the manifest."""
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    for name in ("shards", "plan", "logs"):
        shutil.rmtree(work / name, ignore_errors=True)
    shutil.rmtree(work)
    return manifest
