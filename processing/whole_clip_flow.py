"""Optical flow of a whole clip at once, for motion far below a pixel.

A face in a clip has few degrees of freedom: the head's motion, and a few muscles that contract and relax together. The
flow from the reference frame to frame t is therefore modelled as

    F_t(x) = A_t x + Σ_k c_k(t) D_k(x)

with an affine map A_t for the head and a few smooth fields D_k (cubic B-splines), each with its own course c_k over
time. All pixels of all frames determine these few unknowns, so the sensor's noise averages out over the whole clip.

The fields and courses are initialised from the clip: each frame's smooth flow is solved once, and the leading part of
the singular value decomposition of these flows is the starting point (Irani 1999, "Multi-frame optical flow estimation
using subspace constraints"). Then head, courses and fields are refined in turn by Gauss-Newton steps on the brightness
constancy equation. The reference is the mean of all frames, each warped back by the current flow.

Two details matter by up to a tenth of a pixel. Frames are interpolated linearly on a spline-refined grid, because the
bicubic kernel of OpenCV and PyTorch shifts an image by up to 0.047 pixels too much or too little. OpenCV's rounding of
positions to 1/32 pixel is corrected to first order. Pixels whose residual varies over time, as in shadows or during a
blink, get less weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F

LEAD_IN = 8  # frames before the onset that the estimator also uses
# Share of the resolution, number of Gauss-Newton steps, and whether to solve for the fields or only for the head.
_LEVELS = ((0.25, 5, False), (0.5, 4, True), (1.0, 3, True))
_SPACING = 1 / 16  # of the spline's control points, crop widths
_BENDING = 5e4  # prior precision of a frame's curvature; set on rendered clips, like all values below
_FEWEST = 12  # frames; clips with fewer use the prior for this number
_MEMBRANE = 6e5  # prior precision of its slope, which determines the flow where there is no texture
_RANK = 6  # maximum number of fields
_DISTINCT = 18.0  # required ratio of a field's energy to that of the first field left out
_SHADING = 1 / 6  # spacing of the shading's control points, crop widths; light varies more slowly over a face
_BORDER = 0.06  # crop widths ignored at the frame's edge, where parts enter or leave the frame
_FACE = (0.50, 0.52)  # radii of the ellipse that is used around the middle of the crop, crop widths
_PROBES = 16  # number of noise images
_AT_ONCE = 16  # frames processed together in a step; more do not fit in the cache
_FINER = 2  # frames are sampled on a grid finer by this factor, made by cv2.pyrUp
_ROUNDED = 1 / (32 * _FINER)  # pixels: OpenCV rounds positions to 1/32 of a fine pixel


@dataclass
class ClipFlow:
    """Flow of a clip.

    Args:
        flow (`torch.Tensor` of shape `(T, 2, H, W)`): Flow from the reference frame to each frame in pixels, float32.
        noise (`float`): Standard deviation of the frames' noise in grey levels.
        effective_noise (`float`): Standard deviation of white noise that would make the frames' flow fluctuate as it
            does. Compression reduces `noise` and not this.
    """

    flow: torch.Tensor
    noise: float
    effective_noise: float
    _deviation: Callable[[], torch.Tensor]

    def deviation(self) -> torch.Tensor:
        """Standard deviation of the flow's error in pixels, root mean square over both axes, (T, H, W) float32.

        It is computed from the Cramér-Rao covariance of the smooth fields, given the image's gradients, the measured
        noise and the prior. Where it is large, the flow comes from the prior and not from the image.
        """
        return self._deviation()


def whole_clip_flow(frames: torch.Tensor, *, reference: int = 0) -> ClipFlow:
    """Estimates flow from one frame of a clip to every frame, for all frames together.

    Args:
        frames (`torch.Tensor`): (T, H, H) float32, grey levels, on any device, with T ≥ 2. Neutral frames before the
            onset help.
        reference (`int`, *optional*, defaults to `0`): Index of the frame that flow starts from, such as the onset.

    Raises:
        ValueError: `frames` has another shape or values that are not finite, or `reference` is outside the clip.
    """
    if frames.ndim != 3 or len(frames) < 2 or frames.shape[1] != frames.shape[2] or frames.shape[1] < 32:
        raise ValueError(
            f"Frames must have shape (2 or more, side, side) with a side of at least 32 pixels; got "
            f"{tuple(frames.shape)}."
        )
    if not 0 <= reference < len(frames):
        raise ValueError(f"Reference {reference} is outside a clip of {len(frames)} frames.")
    if not bool(torch.isfinite(frames).all()):
        raise ValueError("Frames contain NaN or infinite values.")
    frames = frames.float()
    solver = _Solver(frames, reference)
    for share, steps, fields in _LEVELS:
        solver.solve_level(max(32, round(share * frames.shape[1])), steps, fields)
    return solver.result()


class _Solver:
    """The unknowns of one clip and the steps on them. Unknowns are in crop widths, so all levels share them."""

    def __init__(self, frames: torch.Tensor, reference: int):
        self.frames, self.reference, self.device = frames, reference, frames.device
        self.noise = self.effective_noise = _noise_level(frames)
        self.points = round(1 / _SPACING) + 3  # control points along one side
        count = len(frames)
        self.head = torch.zeros(count, 2, 3, device=self.device)  # u and v: constant, times x, times y
        self.gain = torch.ones(count, 1, device=self.device)  # light, as a factor of the texture
        self.courses = torch.zeros(count, 0, device=self.device)
        self.fields = torch.zeros(0, 2 * self.points**2, device=self.device)  # spline coefficients, u then v
        # The field of an orthonormal course grows with the clip's length, and so does its expected roughness.
        self.prior = _smoothness_prior(self.points).to(self.device) / max(count, _FEWEST)
        self.factor = None  # Cholesky factor of the fields' information at the last step

    def solve_level(self, side: int, steps: int, with_fields: bool) -> None:
        level = _Level(self.frames, side, self.points)
        for _ in range(steps):
            images = level.evaluate(self.fields)
            warped, shift_x, shift_y = level.warp(self.head, self.courses, images)
            warped /= self.gain
            # While no field is known, the mean over the frames would blur moving parts.
            template = _mean_of_numbers(warped) if len(self.fields) else warped[self.reference].nan_to_num()
            grad_x, grad_y = level.gradient(template)
            residual = warped.sub_(template).addcmul_(shift_x, _ROUNDED * grad_x)
            residual = residual.addcmul_(shift_y, _ROUNDED * grad_y).nan_to_num_()
            # Shading is removed after the warp. Before it, the halo of a strong edge would not move with the edge.
            residual, template = level.without_shading(residual), level.without_shading(template[None])[0]
            grad_x, grad_y = level.gradient(template)
            weight = level.inside * self._steadiness(residual)
            residual = self._step_head_and_courses(level, residual, weight, template, grad_x, grad_y, images)
            if with_fields:
                self._step_fields(level, residual, weight, grad_x, grad_y)

    def _steadiness(self, residual: torch.Tensor) -> torch.Tensor:
        """Weight of each pixel, (N,), at most 2: the inverse of the residual's variance over time, relative to a
        typical pixel of the face. The part of the residual that follows the courses is excluded, because it is motion
        that is not explained yet."""
        total = residual.square().sum(0)
        if len(self.fields):
            centred = self.courses - self.courses.mean(0)
            along = torch.linalg.qr(centred).Q.T @ residual
            total = (total - along.square().sum(0)).clamp(min=0)
        typical = total.median().clamp(min=1e-12)
        return 2 * typical / (total + typical)

    def _step_head_and_courses(self, level, residual, weight, template, grad_x, grad_y, images) -> torch.Tensor:
        """Least squares for each frame's affine map, gain and courses. Returns the remaining residual."""
        columns = [grad_x * level.plane, grad_y * level.plane]
        columns.append(grad_x * images[:, 0] + grad_y * images[:, 1])
        # (7 + K, N): change of each pixel per unit change of each unknown
        design = torch.cat([level.side * torch.cat(columns), template[None]])
        weighted = design * weight
        normal = (weighted @ design.T).double()
        # A nearly empty column, such as a field outside the frame, does not change.
        normal += (1e-6 * normal.diagonal() + 1e-9 * normal.diagonal().max().clamp(min=1.0)).diag()
        step = torch.linalg.solve(normal, (weighted @ residual.T).double()).T.float()
        residual = residual.addmm_(step, design, alpha=-1)
        step = step - step[self.reference]  # the reference frame does not move by definition
        self.head = self.head - step[:, :6].view(-1, 2, 3)
        self.courses = self.courses - step[:, 6:-1]
        self.gain = self.gain * (1 + step[:, -1:])
        return residual

    def _step_fields(self, level, residual, weight, grad_x, grad_y) -> None:
        structure = level.information(weight, grad_x, grad_y)
        gradient = torch.stack([weight * grad_x, weight * grad_y])
        # Only the first step of a level, and one that looks for fields, needs the coefficients of every frame.
        every = level.noise is None or not len(self.fields)
        pulled = level.pull(residual, gradient) if every else None
        if level.noise is None:
            level.noise = self._effective_noise(level, structure, pulled, gradient)
            self.effective_noise = level.noise * self.frames.shape[1] / level.side
        precision = level.noise**-2
        self.factor = torch.linalg.cholesky(torch.add(self.prior, structure, alpha=precision))
        if not len(self.fields):
            self._find_fields(precision * structure, precision * pulled)
            return
        # Courses that are orthonormal over time turn the K coupled problems into K separate ones. They are centred,
        # because a constant part cannot be distinguished from the reference image.
        centred = self.courses - self.courses.mean(0)
        values, vectors = torch.linalg.eigh((centred.T @ centred).double())
        kept = values > 1e-6 * values.max()
        mixing = (vectors[:, kept] / values[kept].sqrt()).float()
        fields = (vectors[:, kept] * values[kept].sqrt()).float().T @ self.fields
        right = precision * (fields @ structure - level.pull((centred @ mixing).T @ residual, gradient))
        self.courses = self.courses @ mixing
        self.fields = torch.cholesky_solve(right.T, self.factor).T

    def _effective_noise(self, level, structure, pulled, gradient) -> float:
        """The standard deviation of white noise that would make the flow of the frames fluctuate as it does.

        Compression reduces the noise of pixels but adds noise that looks like motion, so the sensor's noise alone is
        too optimistic. The flows of noise images are compared with those of the frames, without their leading part,
        which is the motion of the face.
        """
        noise = self.noise * level.side / self.frames.shape[1]  # a pixel of this level is the mean of several
        factor = torch.linalg.cholesky(torch.add(self.prior, structure, alpha=noise**-2))
        images = _noise_images(level.side).to(self.device) * noise

        def energies(right: torch.Tensor) -> torch.Tensor:
            flows = torch.cholesky_solve(right.T / noise**2, factor).T
            return torch.linalg.eigvalsh((flows @ structure @ flows.T).double() / noise**2)

        expected = energies(level.pull(images, gradient)).mean()
        leading = min(_RANK + 1, len(pulled) - 1)
        observed = energies(pulled - pulled.mean(0))[1 : len(pulled) - leading]
        if not len(observed):
            return noise
        return noise * max(1.0, float(observed.mean() / expected)) ** 0.5

    def _find_fields(self, information, right) -> None:
        """Initialises the fields with the leading part that the smooth flows of all frames have in common."""
        flows = -torch.cholesky_solve(right.T, self.factor).T
        flows = flows - flows[self.reference]
        # The inner product is the change of the image in units of its noise, so invisible motion does not count.
        energy = (flows @ information @ flows.T).double()
        values, vectors = torch.linalg.eigh(0.5 * (energy + energy.T))
        values, vectors = values.flip(0), vectors.flip(1)
        left_out = float(values[_RANK]) if len(values) > _RANK else 0.0
        count = int((values[:_RANK] > max(_DISTINCT * left_out, 1e-6 * float(values[0]), 1e-9)).sum())
        self.courses = vectors[:, :count].float()
        self.fields = self.courses.T @ flows
        self.courses = self.courses - self.courses[self.reference]

    def result(self) -> ClipFlow:
        side = self.frames.shape[1]
        level = _Level(self.frames[:0], side, self.points)
        images = level.evaluate(self.fields) * face_window(side).to(self.device)
        flow = torch.empty(len(self.frames), 2, side**2, device=self.device)
        for axis in range(2):
            plan = side * torch.cat([self.head[:, axis], self.courses], 1)
            torch.mm(plan, torch.cat([level.plane, images[:, axis]]), out=flow[:, axis])
        flow = flow.view(-1, 2, side, side)
        return ClipFlow(flow, self.noise, self.effective_noise, lambda: self._deviation(level))

    def _deviation(self, level: _Level) -> torch.Tensor:
        if not len(self.fields):
            return torch.zeros(len(self.frames), level.side, level.side, device=self.device)
        # With a course of energy one, a field has the error of one frame's noise. A frame gets its course's share.
        energy = (self.courses - self.courses.mean(0)).square().sum(0).clamp(min=1e-12)
        share = (self.courses.square() / energy).sum(1).sqrt()
        return share[:, None, None] * level.side * level.deviation(self.factor)


class _Level:
    """Frames at one resolution, and the operators between images, pixels and spline coefficients there."""

    def __init__(self, frames: torch.Tensor, side: int, points: int):
        self.side, self.points, self.device = side, points, frames.device
        self.noise = None  # set once the solver has the residuals of this level
        self.basis = _spline_basis(side, points).to(self.device)
        axis = (torch.arange(side, device=self.device) + 0.5) / side - 0.5
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.plane = torch.stack([torch.ones_like(x), x, y]).view(3, -1)
        self.inside = _face_taper(side).to(self.device)
        self.images = _refined(frames, side)
        self.shading = _shading_basis(side).to(self.device)

    def evaluate(self, fields: torch.Tensor) -> torch.Tensor:
        """Maps coefficients, (K, 2 points²), to pixels, (K, 2, N)."""
        grid = fields.view(-1, 2, self.points, self.points)
        return (self.basis @ grid @ self.basis.T).flatten(2)

    def pull(self, images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The transpose of a step: maps residual images, (K, N), to coefficients, (K, 2 points²). The gradient,
        (2, N), carries the pixels' weights."""
        pulled = []
        for part in _parts(len(images)):
            both = (images[part, None] * gradient).view(-1, 2, self.side, self.side)
            pulled.append((self.basis.T @ (both @ self.basis)).flatten(1))
        return self.side * torch.cat(pulled)

    def information(self, weight: torch.Tensor, grad_x: torch.Tensor, grad_y: torch.Tensor) -> torch.Tensor:
        """The structure tensor projected on the spline, for noise one, (2 points², 2 points²)."""
        products, flat = _spline_products(self.side, self.points)
        products, flat = products.to(self.device), flat.to(self.device)
        both = torch.empty(2, self.points**2, 2, self.points**2, device=self.device)
        for row, column, image in ((0, 0, grad_x * grad_x), (0, 1, grad_x * grad_y), (1, 1, grad_y * grad_y)):
            block = torch.zeros(self.points**4, device=self.device)
            weighted = (self.side**2 * weight * image).view(self.side, self.side)
            block[flat] = (products.T @ weighted @ products).flatten()
            both[row, :, column] = block.view(self.points**2, self.points**2)
        both[1, :, 0] = both[0, :, 1]
        return both.view(2 * self.points**2, 2 * self.points**2)

    def without_shading(self, images: torch.Tensor) -> torch.Tensor:
        """Removes shading, which is the least-squares spline at the spacing of light changes, from (K, N) images."""
        return _without_shading(images, self.shading)

    def gradient(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        square = F.pad(image.view(1, 1, self.side, self.side), (1, 1, 1, 1), mode="replicate")[0, 0]
        # Scharr's kernel is nearly isotropic for its size.
        down = (3 * square[:-2] + 10 * square[1:-1] + 3 * square[2:]) / 16
        across = (3 * square[:, :-2] + 10 * square[:, 1:-1] + 3 * square[:, 2:]) / 16
        return (0.5 * (down[:, 2:] - down[:, :-2])).flatten(), (0.5 * (across[2:] - across[:-2])).flatten()

    def warp(
        self, head: torch.Tensor, courses: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Warps the frames back along the flow, (T, N), with NaN for positions outside the frame. Also returns the
        rounding error of each position in x and y, in units of `_ROUNDED`."""
        side = self.side
        still = torch.tensor([[side / 2 - 0.5, side, 0], [side / 2 - 0.5, 0, side]], device=self.device)
        plans = [torch.cat([side * head[:, axis] + still[axis], side * courses], 1) for axis in range(2)]
        planes = [torch.cat([self.plane, images[:, axis]]) for axis in range(2)]
        if self.device.type == "cpu":
            return self._fetch_with_opencv(plans, planes)
        nothing = torch.zeros((), device=self.device)
        x, y = (plan @ plane for plan, plane in zip(plans, planes, strict=True))
        return self._fetch_with_torch(x, y), nothing, nothing

    def _fetch_with_opencv(self, plans: list[torch.Tensor], planes: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Several times faster than torch on a CPU. Rounds positions to `_ROUNDED` and returns the error."""
        size = (-1, self.side, self.side)
        fetched, *shifts = (torch.empty(len(plans[0]), self.side**2) for _ in range(3))
        for part in _parts(len(fetched)):
            maps = []
            for plan, plane, shift in zip(plans, planes, shifts, strict=True):
                place = torch.mm(plan[part] / _ROUNDED, plane, out=shift[part])
                rounded = place.round()
                place.sub_(rounded)
                maps.append(rounded.mul_(_ROUNDED * _FINER).view(size).numpy())
            out = fetched[part].view(size).numpy()
            for image, map_x, map_y, target in zip(self.images[part].numpy(), *maps, out, strict=True):
                cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, target, cv2.BORDER_CONSTANT, (float("nan"),))
        return fetched, *shifts

    def _fetch_with_torch(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        extent = _FINER * self.side - 1
        at = torch.stack([axis.mul(2 * _FINER / extent).sub_(1).view(-1, self.side, self.side) for axis in (x, y)], -1)
        fetched = F.grid_sample(self.images[:, None], at, padding_mode="border", align_corners=True).flatten(1)
        middle = (self.side - 1) / 2
        outside = (x - middle).abs().maximum((y - middle).abs()) > middle
        return fetched.masked_fill_(outside, float("nan"))

    def deviation(self, factor: torch.Tensor) -> torch.Tensor:
        """Standard deviation of a field's error in crop widths, (side, side), from the factor of its information."""
        covariance = torch.cholesky_inverse(factor)
        half = self.points**2
        # At its control points the spline mixes 3 × 3 coefficients. Between them it varies smoothly.
        coarse = _spline_basis(self.points - 3, self.points).to(self.device)
        mixing = torch.einsum("yi,xj->yxij", coarse, coarse).reshape(-1, half)
        variance = sum(
            (mixing @ covariance[axis : axis + half, axis : axis + half] * mixing).sum(1) for axis in (0, half)
        )
        small = (variance / 2).clamp(min=0).sqrt().view(1, 1, self.points - 3, self.points - 3)
        return F.interpolate(small, size=(self.side, self.side), mode="bilinear", align_corners=False)[0, 0]


def _parts(count: int) -> list[slice]:
    """Slices of frames whose intermediate images fit into the CPU cache together."""
    return [slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE)]


def _mean_of_numbers(images: torch.Tensor) -> torch.Tensor:
    """`nanmean` over time, (T, N) to (N,), with 0 where all are NaN. Much faster if few pixels have a NaN."""
    mean = images.mean(0)
    odd = mean.isnan()
    mean[odd] = images[:, odd].nanmean(0).nan_to_num_()
    return mean


def _refined(frames: torch.Tensor, side: int) -> torch.Tensor:
    """The frames at a resolution, on a grid twice as fine, (T, 2 side, 2 side). Sample 2 i belongs to pixel i. `pyrUp`
    is the refinement of the cubic B-spline. It blurs equally everywhere, so that refining commutes with shifting."""
    share = frames.shape[-1] / side
    images = np.empty((len(frames), _FINER * side, _FINER * side), np.float32)
    for frame, out in zip(frames.cpu().numpy(), images, strict=True):
        if share > 1:  # low-pass filter before subsampling; aliasing would shimmer as the head moves
            frame = cv2.GaussianBlur(frame, (0, 0), 0.5 * share)
            frame = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
        cv2.pyrUp(frame, out)
    return torch.from_numpy(images).to(frames.device)


def _noise_level(frames: torch.Tensor) -> float:
    """Standard deviation of the frames' noise in grey levels, at least that of rounding to eight bits.

    This applies Immerkær 1996, "Fast noise variance estimation", to differences of consecutive frames, which no longer
    contain texture. A median instead of the mean excludes moving parts.
    """
    kernel = np.float32([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    steps = range(0, len(frames) - 1, max(1, len(frames) // 8))
    differences = [(frames[step + 1] - frames[step]).cpu().numpy() for step in steps]
    levels = [np.median(np.abs(cv2.filter2D(image, cv2.CV_32F, kernel))) for image in differences]
    return max(1.4826 * float(np.median(levels)) / (6 * 2**0.5), 12**-0.5)


@lru_cache(maxsize=8)
def _face_taper(side: int) -> torch.Tensor:
    """Weights, (N,): 1 on the face of the canonical crop, falling to 0 towards hair, background and frame edge."""
    place = torch.arange(side) + 0.5
    edge = (torch.minimum(place, side - place) / (_BORDER * side) - 0.5).clamp(0, 1)
    x, y = ((place / side - 0.5) / radius for radius in _FACE)
    face = ((1.05 - torch.hypot(x, y[:, None])) / 0.15).clamp(0, 1)
    return (edge[:, None] * edge * face).flatten()


@lru_cache(maxsize=8)
def face_window(side: int) -> torch.Tensor:
    """Weights, (N,): 1 on the face, falling to 0 where no data supports the fields and only head motion remains."""
    place = (torch.arange(side) + 0.5) / side - 0.5
    x, y = (place / radius for radius in _FACE)
    return ((1.2 - torch.hypot(x, y[:, None])) / 0.2).clamp(0, 1).flatten()


@lru_cache(maxsize=8)
def _spline_basis(side: int, points: int) -> torch.Tensor:
    """Cubic B-splines at the pixel centres of the unit interval, (side, points), one control point beyond each end."""
    place = (torch.arange(side, dtype=torch.float64) + 0.5) / side * (points - 3)
    distance = (place[:, None] - torch.arange(-1, points - 1)).abs()
    near, far = (4 - 6 * distance**2 + 3 * distance**3) / 6, (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far).float()


@lru_cache(maxsize=8)
def _shading_basis(side: int) -> torch.Tensor:
    """An orthonormal basis of the splines that represent shading along one axis, (side, n)."""
    return torch.linalg.qr(_spline_basis(side, round(1 / _SHADING) + 3).double()).Q.float()


def _without_shading(images: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    square = images.view(-1, len(basis), len(basis))
    return torch.sub(square, basis @ (basis.T @ square @ basis) @ basis.T).flatten(1)


@lru_cache(maxsize=8)
def _noise_images(side: int) -> torch.Tensor:
    """White noise of standard deviation one, (_PROBES, N), blurred like a warped frame and without shading."""
    white = torch.randn(_PROBES, 1, side, side, generator=torch.Generator().manual_seed(0))
    kernel = torch.tensor([1.0, 6.0, 1.0]) / 8
    blurred = F.conv2d(F.pad(white, (1, 1, 1, 1), mode="reflect"), (kernel[:, None] * kernel)[None, None])
    return _without_shading(blurred, _shading_basis(side))


@lru_cache(maxsize=8)
def _spline_products(side: int, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Products of overlapping splines, (side, pairs), and the indices of the products of two axes in the (points⁴,)
    matrix. The matrix is banded, and separable except for the image."""
    basis = _spline_basis(side, points)
    first, second = zip(*[(i, j) for i in range(points) for j in range(points) if abs(i - j) <= 3], strict=True)
    first, second = torch.tensor(first), torch.tensor(second)
    rows = first[:, None] * points + first
    columns = second[:, None] * points + second
    return basis[:, first] * basis[:, second], (rows * points**2 + columns).flatten()


@lru_cache(maxsize=8)
def _smoothness_prior(points: int) -> torch.Tensor:
    """Energy of bending and slope of both components, integrated over the crop, (2 points², 2 points²)."""
    fine = 16 * (points - 3)
    basis = _spline_basis(fine, points).double()
    slope = (basis[2:] - basis[:-2]) * fine / 2
    bend = (basis[2:] - 2 * basis[1:-1] + basis[:-2]) * fine**2
    value, slope, bend = (matrix.T @ matrix / fine for matrix in (basis, slope, bend))
    bending = torch.kron(bend, value) + 2 * torch.kron(slope, slope) + torch.kron(value, bend)
    membrane = torch.kron(slope, value) + torch.kron(value, slope)
    one = _BENDING * bending + _MEMBRANE * membrane
    one += 1e-6 * one.diagonal().max() * torch.eye(len(one))  # keeps a frame without texture solvable
    return torch.block_diag(one, one).float()
