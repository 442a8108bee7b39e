"""The plan for a million clips is what the measured rates say."""

import pytest

from benchmarks.scale_plan import BEGIN, END, PAGE, RESULTS, STEPS, core_hours, page, table

MEASURED = """# Measured

## How fast is Uni-MER built?

`python benchmarks/speed/unimer_build.py --clips 2000`, 19.0 min

clips  workers  s in all  clips/s  measuring clips/s  MiB: main  worker   all
 2000        1     400.0     5.00               5.13        512     660  1175
 2000        2     205.0     9.76              10.16        510     659  1828
120 kB written a clip, of 400 kB of frames

## What does recognition cost?

`python benchmarks/speed/recognition.py`, 1.9 min

200 clips/s at a batch of 32
"""


def test_hours_are_computed_from_the_rates():
    hours = list(core_hours(MEASURED).values())
    assert hours[0] == pytest.approx(1e6 / 5 / 3600)
    assert hours[1] == pytest.approx(2 * 1e6 / 200 / 3600)  # two cores
    assert hours[2:] == [None, None]
    text = table(MEASURED)
    assert "| 56 | 0.9 | not measured |" in text
    assert text.count("| not measured | not measured | not measured |") == 2
    assert "The slowest step (build Uni-MER: decode, measure, write questions) takes 20.0 ×" in text
    assert "659 MiB at most, and 64 of them 41 GiB" in text
    assert "The dataset takes 120 GB." in text


def test_one_rate_is_not_compared_with_others():
    assert "slowest" not in table(MEASURED.partition("## What does recognition")[0])
    assert table("").count("not measured") == 3 * len(STEPS)


def test_every_rate_is_in_the_results_and_the_page_has_them():
    results = RESULTS.read_text(encoding="utf-8")
    assert None not in core_hours(results).values()
    assert len(core_hours(results)) == len(STEPS)
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, results) == text, "run python -m benchmarks.scale_plan"


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="needs the lines"):
        page(f"{BEGIN} only", MEASURED)
    assert page(f"before\n{BEGIN}\nold\n{END}\nafter", MEASURED).startswith(f"before\n{BEGIN}\n\n| 1,000,000")
