from pathlib import Path

import pytest

from deft_llm.hub_datasets.sources.catalogue import SOURCES
from deft_llm.hub_datasets.unimer.published_protocols import PUBLISHED, table
from deft_llm.processing.emotion_prototypes import COARSE_EMOTION

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"


def test_the_page_shows_the_table_of_the_code():
    assert table() in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("protocol", PUBLISHED.values(), ids=list(PUBLISHED))
def test_a_protocol_is_whole(protocol):
    assert set(protocol.words) == set(protocol.published) <= set(SOURCES)
    assert set(protocol.left_out) <= set(protocol.words)
    for source, words in protocol.words.items():
        assert set(words) <= set(COARSE_EMOTION)
        assert set(words.values()) == set(protocol.classes)
        assert not set(words) & set(protocol.left_out.get(source, ()))
        assert all(len(item.clips) == len(protocol.classes) for item in protocol.published[source])
    assert all(clip.split("/")[0] in protocol.words for clip in protocol.without)


def test_the_totals_are_those_of_the_field():
    totals = {
        name: [sum(item.clips) for items in protocol.published.values() for item in items]
        for name, protocol in PUBLISHED.items()
    }
    assert totals == {
        "casme2-5": [246, 247],
        "casme2-3": [145],
        "samm-5": [136],
        "smic-3": [164],
        "mmew-6": [234],
        "megc2019": [164, 145, 133],
        "cas-me3-3": [699, 773],
        "cas-me3-4": [860],
        "cas-me3-7": [860],
        "dfme-7": [2629],
    }
    assert sum(totals["megc2019"]) == 442
