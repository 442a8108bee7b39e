"""DEFT in recognition mode, as a model of the folds: networks of `training.recognition` and a kernel machine vote.

Several seeds and the mirrored clip vote together, and the kernel machine has a share of its own. The kernel machine
also weighs the evidence of action units that is found by rule, for units and for classes. Each fold trains on its own
training rows only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit, logit, softmax

from deft_llm.evaluation.baselines.flow_features import apex_flow, median_subtracted, resized, whole_flow
from deft_llm.evaluation.kernel_machine import KernelMachine
from deft_llm.hub_datasets.synthetic.flows import FLOW_UNITS
from deft_llm.processing.action_units import ACTION_UNITS
from deft_llm.processing.unit_evidence import seen_units
from deft_llm.processing.unit_patterns import UNITS_SEEN
from deft_llm.training.recognition import Clips, RecognitionConfig, mirrored, normalised, scales_of, train_on_clips


def clip_fields(rows: Sequence[Mapping[str, Any]], settings: RecognitionConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads the rows' flow.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Rows in the Uni-MER schema.
        settings (`RecognitionConfig`): Grid and number of flow fields.

    Returns:
        Flow without its frames' medians, (clips, frames, 2, flow_size, flow_size), and the clips' scales, (clips,).

    Raises:
        ValueError: the clips have different numbers of frames, or the flow of a clip cannot be read; names the clip.
    """
    clips = []
    for row in rows:
        flow = whole_flow(row)
        if len(flow) > settings.max_frames:
            # The apex is the middle field; the others lie at equal steps around it.
            steps = np.linspace(0, len(flow) - 1, settings.max_frames + 2)[1:-1]
            flow = flow[np.round(steps).astype(int)]
        clips.append(np.stack([median_subtracted(resized(field, settings.flow_size)) for field in flow]))
    lengths = {len(clip) for clip in clips}
    if len(lengths) > 1:
        raise ValueError(f"The clips have {sorted(lengths)} flow fields; build the dataset with one num_frames.")
    flows = torch.from_numpy(np.stack(clips).astype(np.float32))
    return flows, scales_of(flows)


def unit_evidence(rows: Sequence[Mapping[str, Any]], codes: Sequence[str]) -> np.ndarray:
    """What the rows' motion says of action units by rule (`processing.unit_evidence`), without learning.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Rows in the Uni-MER schema.
        codes (`Sequence[str]`): The action units.

    Returns:
        Logits, (clips, codes); NaN for units that the rules do not seek.
    """
    evidence = np.full((len(rows), len(codes)), np.nan)
    sought = [number for number, code in enumerate(codes) if code in UNITS_SEEN]
    if sought:
        for logits, row in zip(evidence, rows, strict=True):
            seen = seen_units(whole_flow(row))
            logits[sought] = logit(np.clip([seen[codes[number]] for number in sought], 1e-4, 1 - 1e-4))
    return evidence


def evidence_of(codes: Sequence[str], clues: np.ndarray) -> np.ndarray:
    """The columns of `unit_evidence(rows, UNITS_SEEN)` for other codes, (clips, codes); NaN where there is none."""
    columns = {code: clues[:, number] for number, code in enumerate(UNITS_SEEN)}
    unknown = np.full(len(clues), np.nan)
    return np.array([columns.get(code, unknown) for code in codes]).reshape(len(codes), len(clues)).T


def voted(opinions: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """The vote on the classes: means of logits, so a voter that is sure outweighs one that cannot tell.

    Args:
        opinions (`Sequence[np.ndarray]`): Probabilities of each voter, (clips, classes).
        shares (`Sequence[float]`): The share of each voter.

    Returns:
        Probabilities, (clips, classes).
    """
    return softmax(np.average(np.log(np.stack(opinions).clip(1e-6, 1 - 1e-6)), axis=0, weights=shares), axis=1)


class DeftRecogniser:
    """The interface of `baselines.Recogniser` around the networks of recognition mode and the kernel machine.

    Args:
        labels (`Sequence[str]`): The classes.
        seed (`int`): Random seed.
        prior (`str | Path`, *optional*): Weights of `train_prior`; by default the networks start from random ones.
        **config: Settings of `RecognitionConfig`.
    """

    def __init__(self, labels: Sequence[str], seed: int = 0, prior: str | Path | None = None, **config: Any):
        self.labels, self.seed, self.prior = list(labels), seed, prior
        self.settings = RecognitionConfig.of(config)

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        settings = self.settings
        targets = torch.tensor([self.labels.index(row["label"]) for row in rows])
        named = [{unit["code"] for unit in row.get("action_units") or ()} for row in rows]
        # Units of the training rows that the prior lacks get a query of their own, which starts from nothing.
        known = sorted({code for codes in named for code in codes} & set(ACTION_UNITS) - set(FLOW_UNITS))
        self.units = [*FLOW_UNITS, *known]
        self.trained_units = sorted({code for codes in named for code in codes} & set(self.units))
        # Units without training labels are predicted by the rules.
        self.ruled_units = sorted({*UNITS_SEEN} - {*self.trained_units}) if self.trained_units else []
        # A row without units may be one whose units nobody wrote down.
        units = torch.tensor([[float(code in codes) if codes else -100.0 for code in self.units] for codes in named])
        self.kernel = None
        if settings.kernel_share > 0:
            self.kernel = KernelMachine(
                len(self.labels), self.trained_units, ridge=settings.kernel_ridge, width=settings.kernel_width
            )
            columns = [self.units.index(code) for code in self.trained_units]
            clues = unit_evidence(rows, UNITS_SEEN)
            self.kernel.fit(
                [apex_flow(row) for row in rows],
                targets.numpy(),
                [row["subject"] for row in rows],
                units[:, columns].numpy(),
                evidence_of(self.trained_units, clues),
                clues,
            )
        self.members = []
        if settings.kernel_share < 1:
            flows, scales = clip_fields(rows, settings)
            self.usual = float(scales.median())
            flows = normalised(flows, scales, self.usual, settings.amplitude)
            clips = Clips(flows, targets, units)
            self.members = [
                train_on_clips(
                    settings, self.labels, self.units, clips, seed=1000 * self.seed + number, prior=self.prior
                )
                for number in range(settings.members)
            ]

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """`scores`, and `action_units` (code → probability).

        The units are those that the training rows named and, by rule alone, others that the rules seek. Without a
        named unit in training there are none.
        """
        voters, shares = [], []
        clues = unit_evidence(rows, UNITS_SEEN) if self.kernel is not None or self.ruled_units else None
        if self.members:
            voters.append(self._networks(rows))
            shares.append(1 - self.settings.kernel_share)
        if self.kernel is not None:
            fields = [apex_flow(row) for row in rows]
            voters.append(self.kernel.predict(fields, evidence_of(self.trained_units, clues), clues))
            shares.append(self.settings.kernel_share)
        emotions, units = zip(*voters, strict=True)
        emotions = voted(emotions, shares)
        units = expit(np.average(logit(np.stack(units).clip(1e-6, 1 - 1e-6)), axis=0, weights=shares))
        predictions = []
        ruled = np.zeros((len(rows), 0)) if clues is None else expit(evidence_of(self.ruled_units, clues))
        for scores, probabilities, by_rule in zip(emotions.tolist(), units.tolist(), ruled.tolist(), strict=True):
            prediction: dict[str, Any] = {"scores": scores}
            if self.trained_units:
                said = zip((*self.trained_units, *self.ruled_units), (*probabilities, *by_rule), strict=True)
                prediction["action_units"] = dict(said)
            predictions.append(prediction)
        return predictions

    def _networks(self, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """The mean probabilities of the networks: classes, (clips, classes), and trained units, (clips, units)."""
        flows, scales = clip_fields(rows, self.settings)
        flows = normalised(flows, scales, self.usual, self.settings.amplitude)
        emotions, units = [], []
        with torch.inference_mode():
            for model in self.members:
                for view in (flows, mirrored(flows)):
                    outputs = model(flow_values_videos=view)
                    emotions.append(outputs.emotion_logits.double().softmax(1))
                    units.append(outputs.au_logits.double().sigmoid())
        columns = [self.units.index(code) for code in self.trained_units]
        return torch.stack(emotions).mean(0).numpy(), torch.stack(units).mean(0)[:, columns].numpy()
