"""Makes up flow of known action units, to train a motion expert before it sees any clip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from deft_llm.processing.action_units import REGIONS, SIDES, get_action_unit, region_ellipse

# Action units and how often they are drawn: clips of 2031 in the cross-dataset table of meb (Varanka et al., arXiv
# 2211.11425), which holds seven datasets. The others that flow can show are drawn rarely.
_FREQUENT = {
    "AU4": 708,
    "AU1": 304,
    "AU2": 280,
    "AU14": 277,
    "AU7": 252,
    "AU12": 176,
    "AU5": 134,
    "AU9": 117,
    "AU17": 86,
    "AU10": 75,
    "AU6": 60,
    "AU15": 52,
    "AU20": 20,
    "AU24": 20,
    "AU16": 10,
    "AU18": 10,
    "AU25": 20,
    "AU26": 20,
}
_TOGETHER = (
    ("AU4", "AU7"),
    ("AU1", "AU2"),
    ("AU1", "AU5"),
    ("AU2", "AU5"),
    ("AU6", "AU12"),
    ("AU4", "AU10"),
    ("AU4", "AU9"),
    ("AU15", "AU17"),
)
FLOW_UNITS = tuple(code for code in _FREQUENT if get_action_unit(code).motions)


class FlowGenerator:
    """Superposes the motions of action units in the region atlas, and disturbs them.

    A sample shows up to a few units, on one or both sides, wide or narrow. Added are a residue of head motion, smooth
    and white noise, blinks, and movements that belong to no unit. The crop differs slightly from the canonical one.

    Args:
        side (`int`): Side of the square flow grid.
        frames (`int`): Flow fields per sample. The apex is the middle one.
    """

    def __init__(self, side: int, frames: int):
        self.side, self.frames = side, frames
        weights = torch.tensor([float(_FREQUENT[code]) for code in FLOW_UNITS])
        self.weights = weights.sqrt() / weights.sqrt().sum()  # the rare ones are to be learned too
        self.basis = torch.stack(
            [
                torch.stack([self._field(code, side_name, width) for side_name in SIDES])
                for code in (*FLOW_UNITS, "AU45")
                for width in (1.0, 1.8)
            ]
        ).unflatten(0, (-1, 2))  # (units + blink, widths, sides, 2, h, w)
        self.bumps = torch.stack([self._bump(region, name, 1.4) for region in REGIONS for name in SIDES])

    def _bump(self, region: str, side_name: str, width: float) -> torch.Tensor:
        cx, cy, rx, ry = region_ellipse(region, side_name)
        centre = (torch.arange(self.side) + 0.5) / self.side
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        # No region is narrower than the window of any flow method.
        rx, ry = (max(radius * width, 1.2 / self.side) for radius in (rx, ry))
        return (-0.5 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)).exp()

    def _field(self, code: str, side_name: str, width: float) -> torch.Tensor:
        field = torch.zeros(2, self.side, self.side)
        for motion in get_action_unit(code).motions:
            vector = torch.from_numpy(motion.vector(side_name)).float()
            field += vector[:, None, None] * self._bump(motion.region, side_name, width)
        return field

    def sample(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws samples.

        Args:
            count (`int`): Number of samples.
            generator (`torch.Generator`): Source of the random numbers.

        Returns:
            Flow in arbitrary units, (count, frames, 2, side, side), and 0 or 1 per unit, (count, FLOW_UNITS).
        """
        units = len(FLOW_UNITS)
        position = {code: index for index, code in enumerate(FLOW_UNITS)}
        labels = torch.zeros(count, units)
        labels[torch.arange(count), torch.multinomial(self.weights, count, True, generator=generator)] = 1
        drawn = torch.rand(count, 3, generator=generator)
        for first, second in _TOGETHER:
            for code, other in ((first, second), (second, first)):
                has = (labels[:, position[code]] > 0) & (torch.rand(count, generator=generator) < 0.3)
                labels[has, position[other]] = 1
        extra = drawn[:, 0] < 0.25
        more = torch.multinomial(self.weights, count, True, generator=generator)
        labels[torch.nonzero(extra)[:, 0], more[extra]] = 1
        labels[drawn[:, 1] < 0.08] = 0  # a face at rest

        present = torch.cat([labels, (drawn[:, 2:] < 0.25).float()], dim=1)  # with the blink
        strength = present * (0.4 * torch.randn(count, units + 1, generator=generator)).exp()
        width = torch.rand(count, units + 1, 1, generator=generator)
        kind = torch.rand(count, units + 1, generator=generator)
        balance = torch.rand(count, units + 1, 2, generator=generator) * 0.5 + 0.75
        balance[kind < 0.12, 0] *= 0.1
        balance[kind > 0.88, 1] *= 0.1
        widths = torch.cat([1 - width, width], dim=2)
        weights = strength[:, :, None, None] * widths[:, :, :, None] * balance[:, :, None, :]
        field = torch.einsum("nuws,uwscij->ncij", weights, self.basis)
        # Movements that are no unit: one region, any direction.
        stray = torch.randn(count, len(self.bumps), 2, generator=generator)
        stray *= (torch.rand(count, len(self.bumps), 1, generator=generator) < 0.04) * 0.5
        field += torch.einsum("nbc,bij->ncij", stray, self.bumps)

        envelope = torch.rand(count, self.frames, generator=generator) * 0.8 + 0.2
        envelope[:, self.frames // 2] = 1
        flows = field[:, None] * envelope[:, :, None, None, None]
        flows = displaced(flows, generator, shift=0.05, zoom=0.15, stretch=0.1, turn=0.08)
        level = torch.rand(count, 3, 1, 1, 1, 1, generator=generator) ** 2
        shape = flows.shape
        flows = flows + 0.6 * level[:, 0] * smooth_noise(shape, generator, 3)
        flows = flows + 0.5 * level[:, 1] * smooth_noise(shape, generator, 9)
        flows = flows + 0.5 * level[:, 2] * torch.randn(shape, generator=generator)
        return flows - flows.flatten(-2).median(-1).values[..., None, None], labels


def displaced(
    flows: torch.Tensor, generator: torch.Generator, *, shift: float, zoom: float, stretch: float, turn: float
) -> torch.Tensor:
    """Applies a small random affine map to each clip. A turn of the grid turns the vectors too.

    Args:
        flows (`torch.Tensor`): Flow of shape (clips, frames, 2, h, w).
        generator (`torch.Generator`): Source of the random numbers.
        shift (`float`): Standard deviation of the shift, in shares of the crop.
        zoom (`float`): Standard deviation of the logarithm of the size.
        stretch (`float`): Standard deviation of the logarithm of height over width.
        turn (`float`): Standard deviation of the angle, in radians.
    """
    clips, frames, _, height, width = flows.shape
    draw = torch.randn(5, clips, generator=generator)
    angle, size, form = turn * draw[0], zoom * draw[1], 0.5 * stretch * draw[2]
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    scales = torch.stack([(size + form).exp(), (size - form).exp()], 1)
    theta = torch.cat([turned * scales[:, :, None], 2 * shift * draw[3:].T[:, :, None]], dim=2)
    grid = F.affine_grid(theta, (clips, 1, height, width), align_corners=False)
    moved = F.grid_sample(flows.flatten(1, 2), grid, align_corners=False, padding_mode="border")
    moved = moved.unflatten(1, (frames, 2))
    # The content turns by the angle's opposite, and the vectors with it.
    u, v = moved[:, :, 0], moved[:, :, 1]
    c, s = cos[:, None, None, None], sin[:, None, None, None]
    return torch.stack([c * u + s * v, -s * u + c * v], dim=2)


def smooth_noise(shape: Sequence[int], generator: torch.Generator, cells: int) -> torch.Tensor:
    """Random flow of a shape (clips, frames, 2, h, w), interpolated from unit noise on a `cells` × `cells` grid."""
    clips, frames, _, height, width = shape
    coarse = torch.randn(clips, 2 * frames, cells, cells, generator=generator)
    fine = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    return fine.unflatten(1, (frames, 2))
