"""Miniatures of the data sets, in the form of the real sheets and folders."""

import shutil
from pathlib import Path

import pytest

from deft_llm.hub_datasets.sources.readers import read_source
from tests.hub_datasets.miniatures import MINIATURES


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """Every miniature, written once. Tests that change one work on a copy."""
    folder = tmp_path_factory.mktemp("miniatures")
    made = {}
    for name, write in MINIATURES.items():
        made[name] = made.get(write) or write(folder / write.__name__)
        made[write] = made[name]
    return {name: root for name, root in made.items() if isinstance(name, str)}


@pytest.fixture
def read(roots):
    def run(name, **settings):
        records, report = read_source(name, roots[name], **settings)
        return {record.clip: record for record in records}, report

    return run


@pytest.fixture
def copied(roots, tmp_path):
    def run(name):
        return Path(shutil.copytree(roots[name], tmp_path / "copy"))

    return run
