"""Published protocols to the clip, disjoint subjects, and leaks that are found."""

import random
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from deft_llm.hub_datasets.sources.emotions import UnknownEmotionError
from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.synthetic.clips import encode_mp4
from deft_llm.hub_datasets.synthetic.dataset import PRESETS, draw_clip
from deft_llm.hub_datasets.synthetic.faces import FaceStyle, render_face
from deft_llm.hub_datasets.unimer.published_protocols import PUBLISHED
from deft_llm.hub_datasets.unimer.splits import (
    Fold,
    LeakageError,
    check_disjoint,
    check_folds,
    check_written,
    clip_signature,
    dfme_sets,
    leave_one_dataset_out,
    leave_one_subject_out,
    near_duplicates,
    select_rows,
    subject_folds,
)
from deft_llm.processing.video_reading import open_clip
from tests.hub_datasets import miniatures

MEGC = PUBLISHED["megc2019"]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Records of full-size made-up sheets: CASME II 255 rows, SAMM 159, SMIC-HS 164 clips."""
    writers = {
        "casme2": miniatures.full_casme2_sheet,
        "samm": miniatures.full_samm_sheet,
        "smic-hs": miniatures.full_smic_folders,
    }
    return [
        record
        for name, write in writers.items()
        for record in read_source(name, write(tmp_path_factory.mktemp(name)), check_frames=False)[0]
    ]


def row_of(record):
    """What a written row keeps of a record."""
    return {
        "clip_id": record.clip_id,
        "source": record.source,
        "subject": record.subject,
        "emotion": record.emotion,
        "provenance": record.provenance,
    }


def test_the_composite_is_the_organisers(full):
    composite = select_rows(MEGC, full)
    assert composite.differences == []
    counts = Counter((clip.split("/")[0], label) for clip, label in composite.labels.items())
    assert counts == {
        ("smic-hs", "negative"): 70,
        ("smic-hs", "positive"): 51,
        ("smic-hs", "surprise"): 43,
        ("casme2", "negative"): 88,
        ("casme2", "positive"): 32,
        ("casme2", "surprise"): 25,
        ("samm", "negative"): 92,
        ("samm", "positive"): 26,
        ("samm", "surprise"): 15,
    }
    assert Counter(clip.split("/")[0] for clip in composite.labels) == {"casme2": 145, "samm": 133, "smic-hs": 164}
    assert len(composite.labels) + len(composite.left_out) == len(full)


def test_the_composite_leaves_the_two_clips_without_apex_out(full):
    left_out = select_rows(MEGC, full).left_out
    no_apex = {
        clip for clip, why in left_out.items() if why == "left out by the organisers of MEGC 2019: no usable apex"
    }
    assert no_apex == {"casme2/sub04/EP12_01f/10", "casme2/sub05/EP09_05f/10"}
    others = Counter(why for clip, why in left_out.items() if clip not in no_apex)
    assert others == {
        "others is not part of megc2019 for casme2": 99,
        "sadness is not part of megc2019 for casme2": 7,
        "fear is not part of megc2019 for casme2": 2,
        "others is not part of megc2019 for samm": 26,
    }


def test_the_composite_has_68_disjoint_loso_folds(full):
    composite = select_rows(MEGC, full)
    folds = composite.folds()
    assert len(folds) == 68
    check_folds(folds, [{"clip_id": clip, "subject": composite.subjects[clip]} for clip in composite.labels])
    sources = Counter(fold.name.partition("/")[0] for fold in folds)
    assert sources == {"casme2": 24, "samm": 28, "smic": 16}


def test_the_composite_of_written_rows_in_any_order_is_the_same(full):
    rows = [row_of(record) for record in full]
    random.Random(3).shuffle(rows)
    assert select_rows(MEGC, rows) == select_rows(MEGC, full)


def test_a_composite_that_is_not_the_organisers_says_where(full):
    without = [record for record in full if record.clip_id != "smic-hs/s01/s1_ne_000/100"]
    assert len(without) == len(full) - 1
    assert select_rows(MEGC, without).differences == [
        "smic-hs: 69/51/43 of 16 subjects (negative, positive, surprise); published are 70/51/43 of 16 subjects (SMIC "
        "(Li et al., 2013) and MEGC 2019)"
    ]


def row(clip, emotion):
    source, subject, _ = clip.split("/")
    return {"clip_id": f"{clip}/1", "source": source, "subject": f"{source}/{subject}", "emotion": emotion}


def test_every_row_that_is_left_out_has_its_reason():
    rows = [row("mmew/S01/a", "disgust"), row("samm/006/a", None), row("samm/006/b", "Anger, Fear")]
    selected = select_rows(MEGC, [*rows, row("samm/006/c", "Other"), row("samm/006/d", "Anger")])
    assert selected.labels == {"samm/006/d/1": "negative"}
    assert selected.left_out == {
        "mmew/S01/a/1": "mmew is not part of megc2019",
        "samm/006/a/1": "no emotion",
        "samm/006/b/1": "several emotions: anger, fear",
        "samm/006/c/1": "others is not part of megc2019 for samm",
    }


def test_words_that_the_protocol_does_not_know_stop_it_with_their_counts():
    rows = [row("samm/006/a", "gloom"), row("samm/006/b", "gloom"), row("casme2/sub01/a", "contempt")]
    with pytest.raises(
        UnknownEmotionError, match=r"'contempt' of casme2 \(1 rows\), 'gloom' of samm \(2 rows\)"
    ) as told:
        select_rows(MEGC, rows)
    assert "samm: anger, contempt, disgust, fear, sadness, happiness, surprise, others" in str(told.value)
    assert "smic-hs" not in str(told.value)
    mapped = select_rows(MEGC, rows[:2], {"gloom": "sadness"})
    assert set(mapped.labels.values()) == {"negative"}


def test_rows_that_carry_the_classes_themselves_are_used():
    """A features-only release of the composite has the three classes as words."""
    rows = [row("casme2/sub01/a", "negative"), row("samm/006/a", "Positive"), row("smic-hs/s01/a", "surprise")]
    assert list(select_rows(MEGC, rows).labels.values()) == ["negative", "positive", "surprise"]


@pytest.mark.parametrize(
    ("name", "clips", "words"),
    [
        ("casme2-5", (32, 25, 63, 27, 99), {"fear": 2, "sadness": 7}),
        ("casme2-3", (88, 32, 25), {"fear": 2, "sadness": 7, "others": 99, None: 2}),
        ("samm-5", (57, 12, 26, 15, 26), {"disgust": 9, "fear": 8, "sadness": 6}),
        ("smic-3", (70, 51, 43), {}),
    ],
)
def test_the_other_protocols_have_the_published_counts(full, name, clips, words):
    selected = select_rows(PUBLISHED[name], full)
    assert selected.differences == []
    counts = Counter(selected.labels.values())
    assert tuple(counts[label] for label in PUBLISHED[name].classes) == clips
    (source,) = PUBLISHED[name].words
    reasons = Counter(why for clip, why in selected.left_out.items() if clip.startswith(f"{source}/"))
    expected = {f"{word} is not part of {name} for {source}": count for word, count in words.items() if word}
    if None in words:
        expected["left out by the organisers of MEGC 2019: no usable apex"] = words[None]
    assert reasons == expected
    assert len(selected.labels) + len(selected.left_out) == len(full)


@pytest.mark.parametrize("name", ["mmew-6", "cas-me3-3", "cas-me3-4", "cas-me3-7", "dfme-7"])
def test_protocols_of_the_other_sources(name):
    """Rows in the published numbers, in the spelling of each sheet."""
    protocol = PUBLISHED[name]
    ((source, (published, *_)),) = protocol.published.items()
    spelled = {"happiness": "happy", "sadness": "sad", "others": "Others"} if source == "cas-me3a" else {}
    rows = []
    for label, count in zip(protocol.classes, published.clips, strict=True):
        words = [word for word, other in protocol.words[source].items() if other == label]
        for number in range(count):
            word = words[number % len(words)]
            person = len(rows) % (published.subjects or 30)
            rows.append(row(f"{source}/{person:03d}/{len(rows)}", spelled.get(word, word)))
    outside = [row(f"{source}/000/{word}", word) for word in protocol.left_out.get(source, ())]
    selected = select_rows(protocol, rows + outside)
    assert (len(selected.labels), selected.differences) == (sum(published.clips), [])
    assert len(selected.left_out) == len(outside)
    assert len(selected.folds()) == (10 if name == "dfme-7" else published.subjects or 30)
    check_folds(selected.folds(), rows)
    (difference,) = select_rows(protocol, rows[1:]).differences
    assert f"published are {published}" in difference


def test_loso_tests_every_subject_once_in_natural_order(full):
    folds = leave_one_subject_out(full)
    check_folds(folds, full)
    assert len(folds) == 26 + 29 + 16
    assert [fold.name for fold in folds[:3]] == ["casme2/sub01", "casme2/sub02", "casme2/sub03"]
    shuffled = random.Random(0).sample(full, len(full))
    assert leave_one_subject_out(shuffled) == folds
    with pytest.raises(ValueError, match="at least two subjects"):
        leave_one_subject_out([full[0]])


def test_cameras_that_filmed_the_same_people_stay_together(tmp_path):
    root = miniatures.smic(tmp_path / "smic")
    records = [r for camera in ("hs", "vis", "nir") for r in read_source(f"smic-{camera}", root)[0]]
    records += read_source("mmew", miniatures.mmew(tmp_path / "mmew"))[0]
    for folds in (leave_one_subject_out(records), leave_one_dataset_out(records)):
        check_folds(folds, records)
        (fold,) = [fold for fold in folds if any(clip.startswith("smic-hs/s20") for clip in fold.test)]
        assert {clip.split("/")[0] for clip in fold.test} == {"smic-hs", "smic-vis", "smic-nir"}
    assert [fold.name for fold in leave_one_dataset_out(records)] == ["mmew", "smic"]


def test_subject_folds_are_even_disjoint_and_follow_their_seed(full):
    folds = subject_folds(full, 10, seed=1)
    check_folds(folds, full)
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 2
    assert subject_folds(full[::-1], 10, seed=1) == folds
    assert subject_folds(full, 10, seed=2) != folds
    for wrong in (1, 1000):
        with pytest.raises(ValueError, match=f"{wrong} folds of 71 subjects"):
            subject_folds(full, wrong)


def test_dfme_sets_are_told_by_the_sheet_in_records_and_rows(tmp_path):
    records, _ = read_source("dfme", miniatures.dfme(tmp_path))
    sets, differences = dfme_sets(records)
    assert sets["train"] == ("dfme/sub0008/sub0008_01/95", "dfme/sub0008/sub0008_02/4", "dfme/sub0012/sub0012_01/7")
    assert (len(sets["test_a"]), len(sets["test_b"])) == (1, 1)
    assert differences[0] == "train: 3 clips of 2 subjects, published are 1856 of 176"
    assert dfme_sets(map(row_of, records)) == (sets, differences)


def test_a_dfme_clip_of_no_set_or_a_subject_of_two_is_an_error():
    def row(clip, sheet):
        return {
            "clip_id": f"dfme/sub0001/{clip}/1",
            "source": "dfme",
            "subject": "dfme/sub0001",
            "provenance": {"sheet": sheet},
        }

    with pytest.raises(ValueError, match=r"in none of DFME's sets: its sheet is 'all\.xlsx'"):
        dfme_sets([row("a", "all.xlsx")])
    with pytest.raises(LeakageError, match="Subject dfme/sub0001 is in train and in test_a"):
        dfme_sets([row("a", "train_full_with_AU.xlsx"), row("b", "testA_full_with_AU.xlsx")])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": ["a/1/x", "a/1/y"], "test": ["a/1/z"]}, "Subject a/1 is in train and in test"),
        ({"train": ["a/1/x"], "test": ["a/2/y", "a/2/y"]}, "Clip a/2/y is in test and again in test"),
        ({"train": ["a/1/x"], "test": ["a/1/x"]}, "Clip a/1/x is in train and again in test"),
    ],
)
def test_leaks_are_named(parts, message):
    rows = {
        part: [{"clip_id": clip, "subject": clip.rpartition("/")[0]} for clip in clips]
        for part, clips in parts.items()
    }
    with pytest.raises(LeakageError, match=message):
        check_disjoint(rows)


def test_folds_that_leak_or_forget_are_named(full):
    folds = leave_one_subject_out(full)
    first, second, *rest = folds
    moved = Fold(first.name, (*first.train, first.test[0]), first.test[1:])
    with pytest.raises(
        LeakageError, match=r"Subject casme2/sub01 is in casme2/sub01, train and in casme2/sub01, test"
    ):
        check_folds([moved, second, *rest], full)
    with pytest.raises(LeakageError, match="is tested 0 times in 70 folds"):
        check_folds([second, *rest], full)
    with pytest.raises(LeakageError, match="nobody/1/a/1 is not among the clips"):
        check_folds([Fold("x", ("nobody/1/a/1",), ())], full)


def test_written_files_are_proved_disjoint(tmp_path, full):
    def write(split, records, shard="00000-of-00001"):
        rows = [{"clip_id": record.clip_id, "subject": record.subject, "emotion": "x"} for record in records]
        Dataset.from_list(rows).to_parquet(tmp_path / f"{split}-{shard}.parquet")

    fold = leave_one_subject_out(full)[0]
    train = [record for record in full if record.clip_id in set(fold.train)]
    test = [record for record in full if record.clip_id in set(fold.test)]
    write("train", train[:200], "00000-of-00002")
    write("train", train[200:], "00001-of-00002")
    write("test", test)
    assert check_written(tmp_path) == {"test": (len(test), 1), "train": (len(train), 70)}
    write("test", [*test, train[0]])
    with pytest.raises(LeakageError, match="again in train"):
        check_written(tmp_path)
    with pytest.raises(FileNotFoundError, match="no Parquet file"):
        check_written(tmp_path / "nothing")


@pytest.fixture(scope="module")
def signatures():
    """Signatures of 16 clips of 8 people before one wall: as recorded, and once more smaller, lighter and blocky."""
    import cv2

    preset = PRESETS["easy"]
    made = {"as recorded": {}, "again": {}}
    for person in range(8):
        face = render_face(
            np.random.default_rng([9, person]), size=preset.size, style=FaceStyle(background=(120, 120, 120))
        )
        for take in range(2):
            clip, _ = draw_clip(face, preset, "synthetic", np.random.default_rng([9, person, take]))
            shown = [clip.expression.onset, clip.expression.apex]
            name = f"{person}/{take}"
            made["as recorded"][name] = clip_signature(*open_clip(encode_mp4(clip)).frames(shown))
            small = [cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA) for frame in clip.frames]
            clip.frames = np.clip(np.stack(small) * 1.08 + 4, 0, 255).astype(np.uint8)
            made["again"][name] = clip_signature(*open_clip(encode_mp4(clip)).frames(shown))
    return made


def test_one_recording_under_two_names_is_found(signatures):
    people = [str(person) for person in range(8)]
    train = {f"train/{name}": bits for name, bits in signatures["as recorded"].items() if name[0] in people[:5]}
    test = {f"test/{name}": bits for name, bits in signatures["again"].items() if name[0] in people[3:]}
    found = near_duplicates({"train": train, "test": test})
    pairs = {(item.first.partition("/")[2], item.second.partition("/")[2]) for item in found}
    assert {("3/0", "3/0"), ("3/1", "3/1"), ("4/0", "4/0"), ("4/1", "4/1")} <= pairs
    assert all(first[0] == second[0] for first, second in pairs)  # the same person's other take may look alike
    assert [item.distance for item in found] == sorted(item.distance for item in found)
    assert {item.splits for item in found} == {("train", "test")}


def test_other_people_are_no_near_duplicates(signatures):
    halves = [
        {name: bits for name, bits in signatures["as recorded"].items() if (int(name[0]) < 4) == first}
        for first in (True, False)
    ]
    assert near_duplicates({"train": halves[0], "test": halves[1]}) == []
    assert near_duplicates({"train": halves[0], "test": {}}) == []
    assert len(near_duplicates({"a": halves[0], "b": halves[1]}, threshold=1.1)) == 64


def test_the_distance_is_the_share_of_differing_bits():
    bits = np.zeros(510, bool)
    changed = bits.copy()
    changed[:51] = True
    (pair,) = near_duplicates({"a": {"x": bits}, "b": {"y": changed}}, threshold=0.2)
    assert pair.distance == pytest.approx(0.1)
    assert near_duplicates({"a": {"x": bits}, "b": {"y": changed}}, threshold=0.09) == []
