"""Every source at once, by the command line, as somebody would build it who holds them all."""

from collections import Counter

import pyarrow.parquet as pq
from datasets import load_dataset

from deft_llm.exit_codes import BUILT_WITH_DROPS
from deft_llm.hub_datasets.unimer.rows import features
from deft_llm.hub_datasets.unimer.splits import check_written, leave_one_subject_out
from deft_llm.processing import DeftVideoProcessor


def test_every_source_is_built_and_the_exit_code_tells_of_drops(everything, manifest):
    code, told, roots, out = everything
    assert code == BUILT_WITH_DROPS
    assert set(manifest["sources"]) == set(roots)
    for name, source in manifest["sources"].items():
        assert source["clips"] > 0, name
        assert source["clips"] + source["dropped"] + sum(source["left_out"].values()) == source["rows_in_sheets"], name
    rows = Counter(name for path in (out / "data").iterdir() for name in pq.read_table(path)["source"].to_pylist())
    assert rows == {name: source["clips"] for name, source in manifest["sources"].items()}
    assert "Measuring clips" in told
    assert "Dropped rows" in told
    assert f"Written to {out}" in told


def test_drops_have_reasons_and_none_is_forgotten(manifest):
    reasons = {drop["source"]: drop["reason"] for drop in manifest["drops"]}
    assert all(drop["reason"] for drop in manifest["drops"])
    assert any("no folder sub17/EP05_02" in drop["reason"] for drop in manifest["drops"])
    assert "cas-me3a" in reasons
    dropped = Counter(drop["source"] for drop in manifest["drops"])
    assert dropped == {name: item["dropped"] for name, item in manifest["sources"].items() if item["dropped"]}


def test_the_written_splits_share_no_subject_and_folds_can_be_made(everything, manifest, tmp_path):
    out = everything[3]
    written = check_written(out / "data")
    assert set(written) == {"train", "test_a", "test_b"}
    assert {name: {"clips": clips, "subjects": people} for name, (clips, people) in written.items()} == (
        manifest["splits"]
    )
    splits = load_dataset(str(out), cache_dir=str(tmp_path))
    streamed = load_dataset(str(out), streaming=True)
    for name, split in splits.items():
        assert split.features == streamed[name].features == features(DeftVideoProcessor(num_frames=8))
    folds = leave_one_subject_out(splits["train"].select_columns(["clip_id", "subject"]))
    assert len(folds) == manifest["splits"]["train"]["subjects"]
    # One person filmed by three cameras is one subject.
    smic = {row["subject"] for row in splits["train"] if row["source"].startswith("smic")}
    assert smic == {"smic/s01", "smic/s03", "smic/s20"}


def test_originals_are_left_as_they_were(everything):
    _, _, roots, _ = everything
    for root in roots.values():
        assert not [path for path in root.rglob("*") if path.name.endswith((".tmp", ".parquet", "lock"))]
