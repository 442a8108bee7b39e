"""Optical flow at the scale of micro-expressions.

Every estimator maps the onset frame and T later frames to T dense displacement fields in pixels, (T, 2, H, W). Channel
0 points right, channel 1 down. A point at p in the onset frame is at p + flow(p) in the later frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import cv2
import numpy as np
import torch
from transformers.utils import logging

from .action_units import ellipse_mask
from .whole_clip_flow import face_window, whole_clip_flow

logger = logging.get_logger(__name__)


def whole_clip(reference: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Flow of all frames together, by `whole_clip_flow`. More frames improve it. Shapes as in `estimate_flow`.

    Where a face moves in more ways than the whole-clip model has fields, as when somebody talks, the model's flow is
    far from what a window around each pixel shows, compared with what noise explains. Then `lucas_kanade_flow` takes
    over, smoothly, for the clip as a whole.
    """
    return _whole_clip(reference, frames, range(len(frames)), with_error=False)[0]


def _whole_clip(
    reference: np.ndarray, frames: np.ndarray, wanted: Sequence[int], *, with_error: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Flow of the wanted frames and its deviation, as `estimate_flow_with_error` returns them."""
    wanted = list(wanted)
    with _one_thread():
        found = whole_clip_flow(torch.from_numpy(np.concatenate([reference[None], frames]).astype(np.float32)))
        flow = found.flow[1:][wanted].numpy()
        deviation = found.deviation()[1:][wanted].numpy() if with_error else None
    size = np.square(flow).mean((1, 2, 3))
    probes = np.argsort(-size, kind="stable")[:_PROBES]
    windowed, variance = _windowed_flow(reference, frames[[wanted[place] for place in probes]])
    variance *= np.float32(found.effective_noise**2)
    share = _share_of_windows(flow[probes], windowed, variance, len(frames) + 1)
    if share < _LEAST_SHARE:
        return flow, deviation
    others = np.setdiff1d(np.arange(len(wanted)), probes)
    measured = np.empty_like(flow)
    measured[probes] = windowed
    if len(others):
        measured[others], _ = _windowed_flow(reference, frames[[wanted[place] for place in others]])
    # Outside the face are hair and background, which are not followed. Inside, a window may slip to another place that
    # looks alike, which shows in how far it goes.
    side = reference.shape[0]
    slipped = np.clip((np.hypot(measured[:, 0], measured[:, 1]) / side - _FAR) / (_FARTHEST - _FAR), 0, 1)
    weight = np.float32(share) * face_window(side).view(side, side).numpy() * (1 - slipped)
    flow += weight[:, None] * (measured - flow)
    if deviation is not None:
        deviation = np.sqrt(weight * variance + (1 - weight) * np.square(deviation))
    return flow, deviation


# Frames that are compared, those that move most, and the share of the windows below which they are not asked.
_PROBES, _LEAST_SHARE = 4, 0.15
# The ratio of squared differences to the variance that noise explains, at which model and windows weigh alike. The
# model averages over the frames and windows do not, so beyond a few frames it grows with their number. The ratio's
# median is 3 to 19 on rendered clips of 25 frames and 24 on people in 15.
_EVEN, _FEW_FRAMES, _EVEN_PER_FRAME = 8.0, 16, 2.0
_FAR, _FARTHEST = 0.06, 0.08  # crop widths between which a window's motion is no longer believed
_FACE = (0.5, 0.5, 0.40, 0.46)
_ALIKE = 0.1  # crop widths over which differences are averaged


def _share_of_windows(model: np.ndarray, windowed: np.ndarray, variance: np.ndarray, frames: int) -> float:
    """How much of the flow should come from windows, 0 to 1, by how badly the model explains what they show.

    Args:
        model: (T, 2, H, W), flow of the whole-clip model.
        windowed: (T, 2, H, W), flow of windows.
        variance: (H, W), of the latter's error per axis.
        frames: Number of frames that the model has seen.
    """
    side = variance.shape[0]
    sigma = _ALIKE * side
    apart = _window(0.5 * np.square(windowed - model).sum(1).mean(0), sigma)
    expected = _window(variance, sigma)
    face = ellipse_mask(_FACE, *variance.shape)
    ratio = float(np.median(apart[face] / np.maximum(expected[face], 1e-12)))
    even = _EVEN + _EVEN_PER_FRAME * max(0, frames - _FEW_FRAMES)
    return ratio**4 / (ratio**4 + even**4)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over several threads differ in the last bits, and a dataset must not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def lucas_kanade_flow(
    reference: np.ndarray, frames: np.ndarray, *, sigma: float = 4.0, levels: int = 3, iterations: int = 6
) -> np.ndarray:
    """Iterative Lucas-Kanade with a Gaussian window, coarse to fine.

    The window is wide, because skin moves smoothly and by a fraction of a pixel. Averaging the brightness constancy
    equation over many pixels reduces the sensor's noise. The gradients are those of the reference (Baker & Matthews
    2004, inverse compositional), so the structure tensor is built once per level. Both images are divided by their
    local contrast, so that strong edges, such as lashes and glasses, do not decide for the skin around them, and less
    of a change of light counts as motion. A prior handles areas without texture: each level is pulled towards the
    flow of the coarser level, and the coarsest level towards the similarity that the textured parts follow. The pull
    is stronger if the image is noisier.

    Args:
        reference (`np.ndarray`): Onset frame, (H, W) float32, grey levels.
        frames (`np.ndarray`): Later frames, (T, H, W) float32, grey levels.
        sigma (`float`, *optional*, defaults to `4.0`): Standard deviation of the window in pixels, at every level.
        levels (`int`, *optional*, defaults to `3`): Number of pyramid levels.
        iterations (`int`, *optional*, defaults to `6`): Number of Gauss-Newton steps per level.

    Returns:
        (T, 2, H, W) float32, pixels.
    """
    return _windowed_flow(reference, frames, sigma, levels, iterations)[0]


def _windowed_flow(
    reference: np.ndarray, frames: np.ndarray, sigma: float = 4.0, levels: int = 3, iterations: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """`lucas_kanade_flow`, and the variance of its error per axis in pixels², (H, W), for noise of one grey level."""
    flow = None
    for level in reversed(range(levels)):
        size = tuple(max(16, round(extent / 2**level)) for extent in reversed(reference.shape))
        resized = cv2.resize(reference, size, interpolation=cv2.INTER_AREA)
        noise = _noise_of(resized)
        ref, gain = _even_contrast(_without_shading(resized), noise)
        typical = float(np.median(gain))
        grad_x = cv2.Scharr(ref, cv2.CV_32F, 1, 0, scale=1 / 32)
        grad_y = cv2.Scharr(ref, cv2.CV_32F, 0, 1, scale=1 / 32)
        texture = [_window(product, sigma) for product in (grad_x * grad_x, grad_x * grad_y, grad_y * grad_y)]
        xx, xy, yy = texture
        # Noise adds its own gradients. Where the texture is not stronger, the prior decides. It also decides along a
        # single edge, so that effects of light or of the frame's border do not become motion along that edge.
        damping = _PRIOR * _GRADIENT_NOISE_GAIN * (typical * noise) ** 2 + _EDGE_PRIOR * (xx + yy) + 1e-6
        xx, yy = xx + damping, yy + damping
        determinant = xx * yy - xy * xy
        grid_y, grid_x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)

        levelled = np.zeros((len(frames), 2, size[1], size[0]), np.float32)
        for index, frame in enumerate(frames):
            target = _without_shading(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
            target, _ = _even_contrast(target, noise)
            if flow is not None:
                for axis in range(2):
                    ratio = size[axis] / flow.shape[3 - axis]
                    levelled[index, axis] = ratio * cv2.resize(flow[index, axis], size)
            prior = levelled[index]
            for round_ in range(2 if flow is None else 1):
                u, v = prior
                for _ in range(iterations):
                    at_x, at_y = grid_x + u, grid_y + v
                    error = cv2.remap(target, at_x, at_y, cv2.INTER_CUBIC, None, cv2.BORDER_REPLICATE) - ref
                    # Points outside the frame cannot be compared.
                    error[(at_x < 0) | (at_x > size[0] - 1) | (at_y < 0) | (at_y > size[1] - 1)] = 0
                    bx = _window(grad_x * error, sigma) + damping * (u - prior[0])
                    by = _window(grad_y * error, sigma) + damping * (v - prior[1])
                    u = u - (yy * bx - xy * by) / determinant
                    v = v - (xx * by - xy * bx) / determinant
                if flow is None and round_ == 0:
                    # Texture in the weaker direction relative to the prior: how much of the flow was measured.
                    weakest = 0.5 * (xx + yy - np.sqrt((xx - yy) ** 2 + 4 * xy**2)) - damping
                    prior = fit_similarity(np.stack([u, v]), weakest / (weakest + damping))
            levelled[index] = u, v
        flow = levelled
    # Two noisy frames, averaged over 4πσ² pixels, through the inverse of the damped structure tensor M: M⁻¹ S M⁻¹.
    averaged = 2 / (4 * np.pi * sigma**2)
    plain_xx, plain_xy, plain_yy = texture
    along_x = yy * yy * plain_xx - 2 * yy * xy * plain_xy + xy * xy * plain_yy
    along_y = xx * xx * plain_yy - 2 * xx * xy * plain_xy + xy * xy * plain_xx
    return flow, averaged * np.square(gain) * 0.5 * (along_x + along_y) / determinant**2


def _window(field: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(field, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def _without_shading(image: np.ndarray) -> np.ndarray:
    """Removes shading, that is low frequencies (8 px is far above a wrinkle's width), and a little noise."""
    return cv2.GaussianBlur(image, (0, 0), _PRESMOOTHING) - cv2.GaussianBlur(image, (0, 0), 8.0)


def _even_contrast(image: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """An image without shading, divided by its local contrast, and the factor at each pixel. Where the contrast is not
    above the noise, it is not raised to that of the rest."""
    gain = 1 / np.sqrt(_window(image * image, _CONTRAST) + noise**2 + _LEAST_CONTRAST**2)
    return image * gain, gain


def _noise_of(image: np.ndarray) -> float:
    """Standard deviation of an image's noise (Immerkær 1996, with a median for robustness)."""
    laplacian = cv2.filter2D(image, cv2.CV_32F, np.float32([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]))
    return 1.4826 * float(np.median(np.abs(laplacian))) / 6


def _gradient_noise_gain() -> float:
    """Variance of the gradient of a smoothed image of white noise with variance one."""
    impulse = np.zeros((31, 31), np.float32)
    impulse[15, 15] = 1
    smooth = cv2.GaussianBlur(impulse, (0, 0), _PRESMOOTHING)
    return float(np.sum(np.square(cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32))))


_PRESMOOTHING = 0.8  # pixels
_CONTRAST, _LEAST_CONTRAST = 8.0, 0.5  # window in pixels over which contrast is taken, and its floor in grey levels
_EDGE_PRIOR = 0.02  # of the window's texture
_PRIOR = (
    4.0  # of motion 0.3-3 px and noise 1-4 grey levels: little error, few false alarms, a tenth of the motion lost
)
_GRADIENT_NOISE_GAIN = _gradient_noise_gain()


def farneback_flow(reference: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """OpenCV's Farneback with the parameters common in the field, (0.5, 3, 15, 3, 5, 1.2). Shapes as in
    `estimate_flow`."""
    arguments = (None, 0.5, 3, 15, 3, 5, 1.2, 0)
    pairs = [cv2.calcOpticalFlowFarneback(_uint8(reference), _uint8(frame), *arguments) for frame in frames]
    return np.stack(pairs).transpose(0, 3, 1, 2)


def dis_flow(reference: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """OpenCV's DIS, medium preset. Shapes as in `estimate_flow`."""
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.stack([estimator.calc(_uint8(reference), _uint8(frame), None) for frame in frames]).transpose(0, 3, 1, 2)


def _uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def tvl1_flow(reference: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """OpenCV's TV-L1 (Zach et al. 2007) with its defaults. Shapes as in `estimate_flow`.

    Raises:
        ImportError: OpenCV is installed without its contrib modules.
    """
    if not hasattr(cv2, "optflow"):
        raise ImportError(
            "TV-L1 needs OpenCV's contrib modules: replace opencv-python-headless with opencv-contrib-python-headless."
        )
    estimator = cv2.optflow.DualTVL1OpticalFlow_create()
    return np.stack([estimator.calc(_uint8(reference), _uint8(frame), None) for frame in frames]).transpose(0, 3, 1, 2)


def raft_flow(reference: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """torchvision's small RAFT (Teed & Deng 2020), on the crop enlarged to at least 256 pixels. Shapes as in
    `estimate_flow`.

    torchvision downloads the weights (4 MB) on first use. A warning announces this.

    Raises:
        ImportError: torchvision is not installed.
        OSError: the weights can neither be found nor downloaded.
    """
    model = _raft()
    # Sides must be multiples of 8 and at least 128 pixels. The network was trained on larger images.
    side = 8 * -(-max(256, reference.shape[0]) // 8)
    first, *rest = (
        torch.from_numpy(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)) / 127.5 - 1
        for image in (reference, *frames)
    )
    flows = []
    for image in rest:
        with torch.inference_mode():
            field = model(*(one.expand(1, 3, -1, -1).contiguous() for one in (first, image)))[-1][0].numpy()
        scale = reference.shape[0] / side
        flows.append([scale * cv2.resize(axis, reference.shape[::-1], interpolation=cv2.INTER_AREA) for axis in field])
    return np.float32(flows)


@lru_cache(maxsize=1)
def _raft() -> torch.nn.Module:
    try:
        from torchvision.models.optical_flow import Raft_Small_Weights, raft_small
    except (ImportError, RuntimeError) as error:  # with a torch it was not built for, it raises RuntimeError
        raise ImportError('flow_estimator="raft" needs a torchvision built for the installed torch.') from error
    logger.warning("RAFT: torchvision loads its weights, raft_small, and downloads them (4 MB) if needed.")
    return raft_small(weights=Raft_Small_Weights.DEFAULT, progress=False).eval()


# "whole_clip" is the only estimator that benefits from frames whose flow was not requested.
FLOW_ESTIMATORS: dict[str, Callable[..., np.ndarray]] = {
    "whole_clip": whole_clip,
    "lucas_kanade": lucas_kanade_flow,
    "farneback": farneback_flow,
    "dis": dis_flow,
    "tvl1": tvl1_flow,
    "raft": raft_flow,
}


def estimate_flow(
    reference: np.ndarray,
    frames: np.ndarray,
    *,
    estimator: str = "whole_clip",
    wanted: Sequence[int] | None = None,
) -> np.ndarray:
    """Estimates flow from the onset frame to each other frame.

    Args:
        reference (`np.ndarray`): Onset frame, (H, H) float32, grey levels 0–255.
        frames (`np.ndarray`): Other frames, (T, H, H) float32, grey levels 0–255.
        estimator (`str`, *optional*, defaults to `"whole_clip"`): A key of `FLOW_ESTIMATORS`.
        wanted (`Sequence[int]`, *optional*): Positions in `frames` of those whose flow is returned; by default all.
            The others help the whole-clip estimator.

    Returns:
        (T, 2, H, H) float32, pixels, or one field per wanted frame.

    Raises:
        ValueError: the estimator is unknown.
        ImportError: a package that the estimator needs is not installed.
    """
    if estimator not in FLOW_ESTIMATORS:
        raise ValueError(f"Unknown flow estimator {estimator!r}. Known: {', '.join(FLOW_ESTIMATORS)}.")
    wanted = range(len(frames)) if wanted is None else wanted
    if estimator == "whole_clip":
        return _whole_clip(reference, frames, wanted, with_error=False)[0]
    return FLOW_ESTIMATORS[estimator](reference, frames[list(wanted)])


def estimate_flow_with_error(
    reference: np.ndarray,
    frames: np.ndarray,
    *,
    estimator: str = "whole_clip",
    wanted: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates flow as `estimate_flow` does, and its error.

    Args:
        reference (`np.ndarray`): Onset frame, (H, H) float32, grey levels 0–255.
        frames (`np.ndarray`): Other frames, (T, H, H) float32, grey levels 0–255.
        estimator (`str`, *optional*, defaults to `"whole_clip"`): A key of `FLOW_ESTIMATORS`.
        wanted (`Sequence[int]`, *optional*): Positions in `frames` of those whose flow is returned; by default all.

    Returns:
        The flow, (T, 2, H, H) float32, and the standard deviation of its error per axis, (T, H, H) float32, both in
        pixels. The error is zero for estimators that do not state theirs, which is all but `"whole_clip"`.
    """
    wanted = range(len(frames)) if wanted is None else wanted
    if estimator == "whole_clip":
        return _whole_clip(reference, frames, wanted, with_error=True)
    flow = estimate_flow(reference, frames, estimator=estimator, wanted=wanted)
    return flow, np.zeros((len(flow), *reference.shape), np.float32)


def fit_similarity(field: np.ndarray, weight: np.ndarray, *, iterations: int = 8) -> np.ndarray:
    """Fits the similarity (shift, rotation, scale) that most of a displacement field follows.

    A similarity's displacement is linear in four unknowns, u = a + c·x − d·y and v = b + d·x + c·y. They are fitted by
    iteratively reweighted least squares with Tukey's biweight, so that a part that moves on its own is ignored.

    Args:
        field (`np.ndarray`): (2, H, W), any unit of length.
        weight (`np.ndarray`): (H, W), weight of each point; zero leaves it out.
        iterations (`int`, *optional*, defaults to `8`): Number of reweighting steps.

    Returns:
        (2, H, W), the displacement of the fitted similarity, in the same unit.
    """
    x, y = _crop_grid(*field.shape[1:])
    step = max(1, field.shape[1] // 64)  # a 64 × 64 grid has enough points for four numbers
    used = weight[::step, ::step] > 0
    at_x, at_y = x[::step, ::step][used], y[::step, ::step][used]
    one, zero = np.ones_like(at_x), np.zeros_like(at_x)
    design = np.concatenate([np.stack([one, zero, at_x, -at_y], -1), np.stack([zero, one, at_y, at_x], -1)])
    target = field[:, ::step, ::step][:, used].reshape(-1).astype(np.float64)
    given, robust = weight[::step, ::step][used].astype(np.float64), one
    for _ in range(iterations):
        weighted = design * np.tile(given * robust, 2)[:, None]
        # Slight damping gives no motion for a field without any usable point.
        parameters = np.linalg.solve(weighted.T @ design + 1e-9 * np.eye(4), weighted.T @ target)
        residual = np.hypot(*(target - design @ parameters).reshape(2, -1))
        # 1.4826 · median is the robust standard deviation and 4.685 Tukey's constant. The floor is float precision.
        scale = 4.685 * 1.4826 * max(float(np.median(residual)) if residual.size else 0.0, 1e-6)
        robust = np.where(residual < scale, (1 - (residual / scale) ** 2) ** 2, 0.0)
    shift_x, shift_y, grow, turn = parameters
    return np.stack([shift_x + grow * x - turn * y, shift_y + turn * x + grow * y]).astype(field.dtype)


@lru_cache(maxsize=8)
def _crop_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel relative to the middle of the crop, in crop widths."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    return (x - width / 2) / width, (y - height / 2) / width
