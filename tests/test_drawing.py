import matplotlib as mpl
import numpy as np
import pytest

from deft_llm.drawing import ARROW_SCALE, draw_crop, draw_flow

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def axis():
    figure, axis = plt.subplots(figsize=(3, 3), dpi=100)
    yield axis
    plt.close(figure)


def test_an_arrow_stands_where_the_motion_is_and_points_where_it_goes(axis):
    flow = np.zeros((2, 8, 8), np.float32)
    flow[:, 6, 1] = (1.0, -2.0)  # right and up, in the lower left of the picture
    arrows = draw_flow(axis, flow)
    place = int(np.argmax(np.hypot(arrows.U, arrows.V)))
    assert arrows.XY[place] == pytest.approx((1.5 / 8, 6.5 / 8))
    assert (arrows.U[place], arrows.V[place]) == pytest.approx((ARROW_SCALE / 100, -2 * ARROW_SCALE / 100))
    assert arrows.get_clim() == pytest.approx((0, 5**0.5))


def test_noise_is_not_drawn_in_bright_colours(axis):
    flow = np.full((2, 8, 8), 0.01, np.float32)
    assert draw_flow(axis, flow).get_clim() == (0, 0.5)
    assert draw_flow(axis, flow, top=0.02).get_clim() == (0, 0.02)


def test_a_fine_field_is_thinned_out(axis):
    assert draw_flow(axis, np.ones((2, 64, 64), np.float32)).N == 16 * 16


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_crop_fills_the_unit_square_upright(axis, kind):
    crop = np.zeros((4, 4, 3), kind)
    crop[0, :, 0] = 255 if kind is np.uint8 else 1  # a red line on top
    draw_crop(axis, crop)
    (image,) = axis.images
    assert (axis.get_xlim(), axis.get_ylim()) == ((0, 1), (1, 0))
    assert image.get_extent() == (0, 1, 1, 0) or list(image.get_extent()) == [0, 1, 1, 0]
    assert image.get_array()[0].tolist() == [[1, 0, 0]] * 4


def test_a_faded_crop_is_light_and_grey(axis):
    draw_crop(axis, np.full((4, 4, 3), (255, 0, 0), np.uint8), faded=True)
    shown = axis.images[0].get_array()
    np.testing.assert_allclose(shown, 0.6 / 3 + 0.4)
