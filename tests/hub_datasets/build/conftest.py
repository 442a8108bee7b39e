"""Recordings of a laboratory's own, built once."""

import cv2
import numpy as np
import pytest

from deft_llm.hub_datasets.build import shards
from deft_llm.hub_datasets.build.run import build
from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.whole_clip_flow import LEAD_IN
from tests.hub_datasets import miniatures
from tests.hub_datasets.build.own_recordings import CROPPED


@pytest.fixture(scope="session")
def own_root(made_once):
    """Six clips of three people, and one that is not coded."""

    def record(place):
        root = place / "root"
        header = ["subject", "path", "onset", "apex", "offset", "fps", "AU", "emotion", "partition"]
        lines = [header]
        for person in (1, 2, 3):
            face = render_face(np.random.default_rng(person), size=128)
            for number in (1, 2):
                path = f"p{person}/c{number}"
                lines.append([f"p{person}", path, 3, 8, 13, 100, "4", "anger", "test" if person == 3 else ""])
                shown = Expression((UnitRequest("AU4", "both", 0.025),), onset=2, apex=7, offset=12)
                clip = render_clip(face, [shown], np.random.default_rng([person, number]), count=14)
                (root / path).mkdir(parents=True)
                for index, frame in enumerate(clip.frames, 1):
                    assert cv2.imwrite(str(root / path / f"{index:03d}.png"), frame[..., ::-1])
        lines.append(["p2", "p2/c1", "", "", "", 100, "", "", ""])
        miniatures.write_csv(root / "annotations.csv", lines)
        return root

    return made_once("own-recordings", record)


@pytest.fixture(scope="session")
def own_built(own_root, made_once):
    """The same with two workers."""

    def built(place):
        out = place / "own"
        return out, build({"mylab": own_root}, out, settings=CROPPED, workers=2)

    return made_once("own-built", built)


@pytest.fixture(scope="session")
def processor():
    return DeftVideoProcessor(num_frames=8)


@pytest.fixture(scope="session")
def recorded(own_root):
    records, _ = read_source("mylab", own_root, margin=LEAD_IN)
    return records


@pytest.fixture
def measured_once(own_root, monkeypatch):
    """Rows from the shelf, so that many builds cost little; counts how often each was asked for."""
    shelf, asked = {}, []
    real = shards.record_row

    def row(record, *rest):
        if record.clip_id not in shelf:
            shelf[record.clip_id] = real(record, *rest)
        asked.append(record.clip_id)
        return shelf[record.clip_id]

    monkeypatch.setattr(shards, "record_row", row)
    return asked
