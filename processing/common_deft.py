"""Names and sizes on which the processor, the data and training have to agree.

The model's own files cannot import this one, nor this one them: on the Hub they are loaded apart. `experts_deft` and
`configuration_deft` repeat what a model folder needs, and a test compares the two.
"""

from __future__ import annotations

EXPERTS = ("structure", "texture", "motion")
"""The experts, in the order of their sections in the prompt and of `expert_gates`."""
EXPERT_TITLES = {"structure": "Structure", "texture": "Dynamic texture", "motion": "Motion"}
"""What the prompt and people call the experts."""
SIDE_LABELS = ("both", "left", "right")
"""The sides that an action unit can have, in the order of `au_side_logits`; left and right are the person's own."""
NUM_FRAMES = 8
"""Frames of one clip that the model samples, the onset among them."""
FLOW_SIZE = 32
"""Side of the grid of flow, in cells."""
STRUCTURE_TOKENS = 4
"""Language tokens of the structure expert."""
TEXTURE_TOKENS = 8
"""Language tokens of the dynamic texture expert. The motion expert has one per action unit."""
