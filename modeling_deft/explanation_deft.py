"""Explain an answer: where each action unit attends, and how the output changes without each expert."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .configuration_deft import EXPERTS


@dataclass
class DeftExplanation(ModelOutput):
    r"""
    Output of `explain`.

    Args:
        au_maps (`(clips, action_units, frames - 1, grid, grid)`): attention of each action unit, which sums to 1.
        expert_gates (`(clips, 3)`): weights of structure, texture and motion in the emotion, which sum to 1.
        emotion_effects (`(clips, 3)`): drop of the predicted class's probability without the expert; negative if the
            probability rises. Zero for an expert whose input is missing, NaN if no expert would be left.
        answer_effects (`(clips, 3)`, *optional*): drop of the answer's mean log-probability without the expert, in
            nats per token. `None` without an answer.
    """

    au_maps: torch.FloatTensor | None = None
    expert_gates: torch.FloatTensor | None = None
    emotion_effects: torch.FloatTensor | None = None
    answer_effects: torch.FloatTensor | None = None


class ExplanationMixin:
    """`explain` for [`DeftForConditionalGeneration`]."""

    @torch.no_grad()
    def explain(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        flow_values_videos: torch.FloatTensor | None = None,
        convention_ids: torch.LongTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
    ) -> DeftExplanation:
        r"""
        Computes where each action unit attends, and how the output changes without each expert.

        Args:
            pixel_values_videos (`(clips, frames, 3, height, width)`, *optional*): normalised RGB.
            flow_values_videos (`(clips, frames - 1, 2, flow_size, flow_size)`): percent of the crop width.
            convention_ids (`(clips,)`, *optional*): indices into `config.label_conventions`, -100 for unknown.
            input_ids (`(clips, sequence)`, *optional*): one prompt per clip, followed by its answer.
            attention_mask (`(clips, sequence)`, *optional*): 0 for padding.
            labels (`(clips, sequence)`, *optional*): the tokens of the answer, -100 elsewhere. Required with
                `input_ids`.

        Raises:
            ValueError: `flow_values_videos` is missing, or only one of `input_ids` and `labels` is given.
        """
        if flow_values_videos is None:
            raise ValueError("explain() needs flow_values_videos: the motion expert computes the maps from it.")
        if (input_ids is None) != (labels is None):
            raise ValueError("explain() needs input_ids and labels together, or neither.")
        clips = {
            "pixel_values_videos": pixel_values_videos,
            "flow_values_videos": flow_values_videos,
            "convention_ids": convention_ids,
        }
        text = {"input_ids": input_ids, "attention_mask": attention_mask}
        names = [name for name in EXPERTS if name == "motion" or pixel_values_videos is not None]
        whole = self.model(**clips, **text)
        probability = whole.emotion_logits.softmax(-1)
        best = probability.argmax(-1, keepdim=True)
        emotion = probability.new_zeros(len(probability), len(EXPERTS))
        answer = None if labels is None else emotion.clone()
        for name in names:
            index = EXPERTS.index(name)
            without = self.model(**clips, **text, silenced_experts=(name,))
            change = probability - without.emotion_logits.softmax(-1)
            emotion[:, index] = change.gather(1, best).squeeze(1) if len(names) > 1 else torch.nan
            if answer is not None:
                answer[:, index] = self._answer_score(whole, labels) - self._answer_score(without, labels)
        grid = self.config.motion_config.flow_size // self.config.motion_config.patch_size
        return DeftExplanation(
            au_maps=whole.au_attentions.unflatten(-1, (grid, grid)),
            expert_gates=whole.expert_gates,
            emotion_effects=emotion,
            answer_effects=answer,
        )

    def _answer_score(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """(batch,) mean log-probability of the scored tokens."""
        logits = self.lm_head(outputs.last_hidden_state[:, :-1]).float()
        values = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
        return -values.sum(1) / (labels[:, 1:] != -100).sum(1).clamp(min=1)


__all__ = ["DeftExplanation", "ExplanationMixin"]
