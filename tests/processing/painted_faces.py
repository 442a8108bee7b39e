"""A few dark and bright spots that look like a face from afar."""

import numpy as np

# (x, y, radii, grey levels against the skin) in the canonical crop; mirrored to the other side.
SPOTS = (
    (0.335, 0.35, 0.075, 0.03, -90),
    (0.32, 0.24, 0.09, 0.025, -70),
    (0.455, 0.59, 0.05, 0.02, -50),
    (0.5, 0.765, 0.12, 0.02, -80),
    (0.3, 0.52, 0.1, 0.08, 25),
)
LANDMARKS = np.array([(0.31, 0.35), (0.69, 0.35), (0.5, 0.76)])


def painted_face(
    height: int, width: int, *, crop: float, middle: tuple[float, float], side_light: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A frame with a painted face, and the face's landmarks in pixels.

    Args:
        height: of the frame in pixels.
        width: of the frame in pixels.
        crop: width of the canonical crop in pixels.
        middle: where the middle of the canonical crop lies, in pixels.
        side_light: grey levels by which the left border is darker than the right one.
    """
    y, x = np.mgrid[:height, :width] + 0.5
    u, v = (x - middle[0]) / crop + 0.5, (y - middle[1]) / crop + 0.5
    frame = 170 + side_light * (x / width - 0.5)
    for cx, cy, rx, ry, grey in SPOTS:
        for centre in {cx, 1 - cx}:
            frame += grey * np.exp(-(((u - centre) / rx) ** 2) - ((v - cy) / ry) ** 2)
    frame += np.random.default_rng(0).normal(0, 1, frame.shape)
    picture = np.repeat(np.clip(frame, 0, 255).astype(np.uint8)[..., None], 3, 2)
    return picture, (LANDMARKS - 0.5) * crop + middle
