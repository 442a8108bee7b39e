"""What the shallow flow networks share: they read 28 × 28 fields at the apex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .flow_features import apex_fields
from .networks import NetworkBaseline


class ShallowNetwork(NetworkBaseline):
    """A network on the flow at the apex, u and v, and strain if it has three channels. Subclasses define the network.

    Attributes:
        channels (`int`): 2 or 3.
    """

    channels: int
    side = 28

    def read(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Reads `(clips, channels, side, side)` float32."""
        return apex_fields(rows, self.side, with_strain=self.channels == 3)
