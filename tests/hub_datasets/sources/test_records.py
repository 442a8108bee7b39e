import hashlib
import json
from dataclasses import replace

from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.sources.records import Drop, ReadReport


def test_provenance_and_report_are_complete_and_json(roots):
    records, report = read_source("casme2", roots["casme2"])
    sheet = roots["casme2"] / "CASME2-coding-20190701.xlsx"
    digest = hashlib.sha256(sheet.read_bytes()).hexdigest()
    assert records[0].provenance == {"reader": "readers 2", "sheet": sheet.name, "sheet_sha256": digest, "row": 2}
    manifest = json.loads(json.dumps(report.to_dict()))
    assert manifest["sheets"] == [{"name": sheet.name, "sha256": digest, "rows": 10}]
    assert str(roots["casme2"]) not in json.dumps(manifest)  # relative names only: the manifest is shared
    assert "sub17/EP05_02" in str(report)


def test_an_unknown_row_count_is_reported_with_the_known_ones(read):
    _, report = read("samm")
    assert report.version == "no known release has 18 rows"
    assert any("159 (released sheet)" in warning for warning in report.warnings)


def test_frames_are_named_in_order_and_a_video_has_none(read):
    records, _ = read("casme2")
    record = next(iter(records.values()))
    assert record.frames == [record.folder / name for name in record.files]
    assert all(path.is_file() for path in record.frames)
    assert replace(record, folder=None, files=()).frames == []


def test_a_report_counts_what_it_holds():
    report = ReadReport("mylab", "My laboratory", rows=3, records=1, subjects=1, version="own recordings")
    report.drops.append(Drop("annotations.csv", 4, "p1/c2", "no onset"))
    report.left_out["macro"] = 1
    text = str(report)
    assert text.startswith("My laboratory (mylab): 1 clips of 1 subjects from 3 rows; own recordings")
    assert "dropped, annotations.csv row 4, p1/c2: no onset" in text
    assert "1 left out: macro" in text
