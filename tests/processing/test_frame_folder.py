import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deft_llm.processing.frame_folder import FrameSeriesError, folder_series, frame_series

ONE_TO_SIX = range(1, 7)


@pytest.mark.parametrize(
    ("names", "frames"),
    [
        (["IMG1.png", "img2.png", "Img3.png", "img10.PNG"], {1: "IMG1.png", 2: "img2.png", 3: "Img3.png"}),
        ([f"frame_{n:04d}_1000ms.jpg" for n in ONE_TO_SIX], {1: "frame_0001_1000ms.jpg", 6: "frame_0006_1000ms.jpg"}),
        ([f"frame_{n}_{33 * n}ms.jpg" for n in ONE_TO_SIX], {1: "frame_1_33ms.jpg", 6: "frame_6_198ms.jpg"}),
        ([f"frame_{n}_{n // 4}s.jpg" for n in ONE_TO_SIX], {1: "frame_1_0s.jpg", 6: "frame_6_1s.jpg"}),
        ([f"{n}_crop2.png" for n in ONE_TO_SIX], {1: "1_crop2.png", 6: "6_crop2.png"}),
        ([f"006_{n}.jpg" for n in ("09", "10", "0011")], {9: "006_09.jpg", 10: "006_10.jpg", 11: "006_0011.jpg"}),
        ([f"clip ({n}).pgm" for n in ONE_TO_SIX], {1: "clip (1).pgm", 6: "clip (6).pgm"}),
        (["img0.png", "img1.jfif", "img2.JPG"], {0: "img0.png", 1: "img1.jfif", 2: "img2.JPG"}),
        (["reg_img46.jpg"], {46: "reg_img46.jpg"}),
        (["٣.png", "٤.png"], {3: "٣.png", 4: "٤.png"}),
    ],
)
def test_the_number_is_the_group_of_digits_that_varies(names, frames):
    series = frame_series(names)
    assert frames.items() <= series.frames.items()
    assert sorted(series.frames.values()) == sorted(names)
    assert list(series.frames) == sorted(series.frames)
    assert series.strangers == ()


@pytest.mark.parametrize(
    ("numbers", "strangers"),
    [
        (range(3), ["img1 (1).png", "img1 - Copy.png"]),
        (range(3), ["apex.png", "mean_face.png"]),
        (range(41, 47), ["img45(1).jpg"]),
        (range(3), ["img0 - Kopie (2).png", "img0 copy.png", "Copy of img1.png", "apex7.png"]),
        (range(3), [f"img{n}_mask.png" for n in range(3)]),  # made from the frames
        (range(9), [f"thumb{n}.png" for n in range(4)]),
    ],
)
def test_other_images_are_strangers(numbers, strangers):
    frames = {number: f"img{number}.png" for number in numbers}
    series = frame_series([*strangers, *frames.values(), "notes.txt", "._img1.png", "Thumbs.db"])
    assert series.frames == frames
    assert series.strangers == tuple(sorted(strangers))
    (remark,) = series.remarks
    assert sorted(strangers)[0] in remark


def test_a_stray_file_of_another_person_is_a_stranger():
    frames = {number: f"sub01_img{number}.png" for number in range(5)}
    series = frame_series([*frames.values(), "sub02_img3.png"])
    assert (series.frames, series.strangers) == (frames, ("sub02_img3.png",))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"img{n}.{kind}" for n in range(3) for kind in ("png", "jpg")], "img0.jpg and img0.png are both frame 0"),
        (["img9.jpg", "img009.jpg", "img10.jpg"], "img009.jpg and img9.jpg are both frame 9"),
        (["img1.png", "IMG1.png", "img2.png"], "IMG1.png and img1.png are both frame 1"),
        ([f"{eye}_{n}.png" for eye in ("left", "right") for n in range(4)], "4 such as left_0.png, and 4 such as ri"),
        ([f"img{n}.png" for n in range(4)] + ["flow0.png", "flow1.png"], "4 such as img0.png, and 2 such as flow0"),
        (["img1.png", "apex2.png"], "1 such as .*, and 1 such as"),
        (["a1.png", "a2.png", "b3.png", "c4.png", "d5.png"], "2 such as a1.png, and 3 such as b3.png"),
        ([f"cam{c}_{n}.png" for c in (1, 2) for n in range(3)], r"several numbers vary .*cam1_0.png, .* and 3 more"),
        (["00_58.png", "00_59.png", "01_00.png", "01_01.png"], "several numbers vary"),
    ],
)
def test_what_cannot_be_one_series_is_refused(names, message):
    with pytest.raises(FrameSeriesError, match=message):
        frame_series(names)


@pytest.mark.parametrize(
    ("numbers", "gaps"),
    [
        ([0, 1, 3], [[2]]),
        ([1, 2, 6, 7, 9], [[3, 4, 5], [8]]),
        ([0, 5, 10, 20], [[15]]),
        ([46, 47], []),
        ([3, 6, 9], []),
        ([7], []),
        ([1, 2, 10**18], [[*range(3, 6)]]),
    ],
)
def test_missing_numbers_are_named(numbers, gaps):
    series = frame_series(f"{number}.png" for number in numbers)
    assert [list(gap[:3]) for gap in series.gaps] == gaps
    assert bool(series.remarks) == bool(gaps)


def test_missing_numbers_are_counted():
    assert frame_series(f"{number}.png" for number in (1, 2, 6, 7, 9)).missing == 4
    assert frame_series(f"{number}.png" for number in (0, 5, 10, 20)).missing == 1
    assert frame_series(f"{number}.png" for number in (1, 2, 10**30)).missing == 10**30 - 3


def test_the_remark_on_gaps_is_short():
    (remark,) = frame_series(f"{number}.png" for number in (1, 3, 7, 9, 11, 12, 13)).remarks
    assert remark == "no file for frame 2, 4 to 6, 8 and 1 more; the frames around it are read as neighbours."


def test_no_numbers_no_frames():
    assert frame_series(["apex.png", "onset.png", "7.txt"]).strangers == ("apex.png", "onset.png")
    assert frame_series([]).frames == {}


def test_a_link_to_nowhere_is_a_missing_frame(tmp_path):
    for number in (0, 1, 3):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / "4.png").symlink_to(tmp_path / "3.png")
    (tmp_path / "5.png").mkdir()
    assert list(folder_series(tmp_path).frames) == [0, 1, 3, 4]
    (tmp_path / "2.png").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"2\.png: the frame is missing; it is a link to nowhere"):
        folder_series(tmp_path)


words = st.text(string.ascii_letters + "_- ()é", max_size=6)


@settings(deadline=None, max_examples=150)
@given(
    before=words,
    after=words,
    fixed=st.none() | st.integers(0, 2000),
    numbers=st.sets(st.integers(0, 10**9), min_size=2, max_size=12),
    order=st.randoms(use_true_random=False),
    data=st.data(),
)
def test_any_series_is_read_in_the_order_of_its_numbers(before, after, fixed, numbers, order, data):
    """Whatever stands around the number, however it is padded and spelled, and whatever lies beside it."""
    expected = {}
    for number in sorted(numbers):
        text = f"x{before}{number:0{data.draw(st.integers(1, 5))}d}{after}" + ("" if fixed is None else f"a{fixed}z")
        suffix = data.draw(st.sampled_from([".png", ".PNG", ".jpg", ".tiff"]))
        expected[number] = data.draw(st.sampled_from([text, text.upper()])) + suffix
    first = next(iter(expected.values()))
    strangers = {"apex.png", "mean_face.jpg", f"{first.rpartition('.')[0]} (1).png"}
    names = [*expected.values(), *strangers]
    order.shuffle(names)
    series = frame_series(names)
    assert series.frames == expected
    assert list(series.frames) == sorted(expected)
    assert series.strangers == tuple(sorted(strangers))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text("aB12_( ).", max_size=8).map(lambda text: text + ".png"), max_size=8, unique=True))
def test_no_image_is_dropped_without_a_word(names):
    images = {name for name in names if not name.startswith(".")}
    try:
        series = frame_series(names)
    except FrameSeriesError:
        return
    assert {*series.frames.values(), *series.strangers} == images
    assert len(series.frames) + len(series.strangers) == len(images)
