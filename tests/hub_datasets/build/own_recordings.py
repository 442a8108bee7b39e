"""What the tests of the builder share: settings, and what a built folder holds."""

import hashlib
import sys

import pyarrow.parquet as pq

from deft_llm.hub_datasets.build.settings import BuildSettings

CROPPED = BuildSettings(face_source="cropped", shard_size=2)


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(folder):
    return [row for path in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def command(root, out, *more):
    build = "-m deft_llm.cli data build --face-source cropped --shard-size 2".split()
    return [sys.executable, *build, "--source", f"mylab={root}", "--output-dir", str(out), *more]


class Killed(BaseException):
    pass
