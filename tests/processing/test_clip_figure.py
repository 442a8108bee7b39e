import builtins

import numpy as np
import pytest

from deft_llm.processing import AlignedClip
from deft_llm.processing.clip_figure import plot_regions
from deft_llm.processing.head_motion import STILL
from deft_llm.processing.key_frames import KeyFrames
from deft_llm.processing.region_tracking import TRACKED_REGIONS, FollowedFrame

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")

BROW, CHIN = ("inner brow", "left"), ("chin", "right")


def followed(reasons=()):
    """30 frames in which the left inner brow goes down by 1 % and back, and the chin moves at the end only."""
    motion = np.zeros((30, len(TRACKED_REGIONS), 2), np.float32)
    motion[:, TRACKED_REGIONS.index(BROW), 1] = np.interp(np.arange(30), [5, 10, 20], [0, 1, 0])
    motion[25:, TRACKED_REGIONS.index(CHIN), 0] = 3
    named = dict(reasons)
    return [FollowedFrame(row, named.get(frame), STILL, np.eye(2, 3)) for frame, row in enumerate(motion)]


def names_of(figure):
    return figure.axes[0].get_legend_handles_labels()[1]


def test_the_regions_that_move_at_the_apex_come_first():
    figure = plot_regions(followed(), keys=KeyFrames(5, 10, 20), fps=10.0, regions=1)
    (axes,) = figure.axes
    (curve,) = [line for line in axes.lines if len(line.get_xdata()) == 30]
    assert curve.get_label() == "left inner brow"
    assert curve.get_ydata().max() == pytest.approx(1)
    assert curve.get_xdata()[10] == pytest.approx(1.0)
    assert [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2] == [0.5, 1.0, 2.0]
    assert [note.get_text() for note in axes.texts] == ["onset", "apex", "offset"]
    assert axes.get_xlabel() == "time in s"
    assert not plt.get_fignums()  # notebooks show it once


def test_without_key_frames_the_farthest_way_counts():
    figure = plot_regions(followed(), regions=2)
    assert names_of(figure) == ["right chin", "left inner brow"]
    assert figure.axes[0].get_xlabel() == "frame"


def test_named_regions_are_drawn_in_their_order():
    assert names_of(plot_regions(followed(), regions=[BROW, CHIN])) == ["left inner brow", "right chin"]
    with pytest.raises(ValueError, match=r"There is no region \('brow', 'left'\)"):
        plot_regions(followed(), regions=[("brow", "left")])


def test_what_cannot_be_measured_is_grey_and_has_no_curve():
    lost = [(frame, "the head turns too far") for frame in (*range(12, 16), 20)]
    figure = plot_regions(followed(lost), keys=KeyFrames(5, 10, 11), fps=10.0, regions=[BROW])
    (axes,) = figure.axes
    curve = axes.lines[0].get_ydata()
    assert np.isnan(curve).nonzero()[0].tolist() == [12, 13, 14, 15, 20]
    assert names_of(figure) == ["left inner brow", "not measurable: the head turns too far"]  # said once
    spans = [patch.get_x() for patch in axes.patches]
    assert spans == pytest.approx([1.15, 1.95])


def test_the_band_is_as_wide_as_the_noise():
    frames = followed()
    rng = np.random.default_rng(0)
    for frame in frames:
        frame.motion[:] += rng.normal(0, 0.1, frame.motion.shape)
    figure = plot_regions(frames, keys=KeyFrames(5, 10, 20), regions=[BROW])
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    middle = band[np.abs(band[:, 0] - 15) < 0.1, 1]
    assert np.ptp(middle) == pytest.approx(0.2, rel=0.5)  # one standard deviation on both sides


def test_a_clip_draws_itself_and_says_if_it_cannot(brow_clip):
    clip = AlignedClip.open(brow_clip.frames, face_source="canonical", fps=brow_clip.fps)
    assert "brow" in names_of(clip.plot())[0]
    given = clip.with_key_frames((3, 19, 35))
    marks = [line.get_xdata()[0] for line in given.plot().axes[0].lines if len(line.get_xdata()) == 2]
    assert marks == pytest.approx([3 / 200, 19 / 200, 35 / 200])
    grey = clip.plot([FollowedFrame(one.motion, "it is dark", STILL, one.transform) for one in clip.follow()])
    assert names_of(grey) == ["not measurable: it is dark"]


def test_without_matplotlib_the_command_that_installs_it_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"Plotting a clip needs matplotlib\. Run `pip install matplotlib`"):
        plot_regions(followed())
