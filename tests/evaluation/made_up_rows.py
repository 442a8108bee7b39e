"""Rows in the Uni-MER schema whose names and columns tell the label wherever a real dataset's can."""

import numpy as np

WORDS = {"negative": "disgust", "positive": "happiness", "surprise": "surprise"}


def make_row(source: str, subject: int, clip: int, label: str | None, seed: int = 0, **changes) -> dict:
    rng = np.random.default_rng([seed, subject, clip])
    shift = {"negative": -0.5, "positive": 0.5, "surprise": 0.0, None: 0.0}[label]
    person = f"{source}/sub{subject:02d}"
    return {
        "clip_id": f"{person}/EP{clip:02d}_{label}/46",
        "source": source,
        "subject": person,
        "fps": 200.0,
        "onset": 46,
        "apex": 60,
        "offset": 80,
        "video": None,
        "flow": (rng.normal(size=(1, 2, 8, 8)) + np.array([shift, 0])[:, None, None]).astype(np.float16),
        "action_units": [{"code": f"AU12 {label}", "side": "both"}],
        "motion": [],
        "emotion": WORDS.get(label),
        "emotion_coarse": label,
        "objective_class": None,
        "conversations": [],
        "quality": [],
        "provenance": {"reader": "test", "sheet": str(label), "sheet_sha256": None, "row": clip},
    } | changes
