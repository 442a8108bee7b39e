"""Loss terms. Each is a mean over the labelled entries, and a zero that has a gradient if there are none."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from .configuration_deft import DeftConfig
from .experts_deft import region_masks


def masked_mean(values: torch.Tensor, mask: torch.Tensor, shares: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over the entries where `mask` is True. If there are none: zero, with a gradient of zero.

    Args:
        values: (clips, …).
        mask: of the shape of `values`.
        shares: (clips,), *optional*. If given, the result is the sum over the clips of each clip's mean times its
            share, so that the results of several micro-batches add up to that of the whole batch.
    """
    values = torch.where(mask, values, 0.0)
    if shares is None:
        return values.sum() / mask.sum().clamp(min=1)
    own = values.reshape(len(values), -1).sum(1) / mask.reshape(len(mask), -1).sum(1).clamp(min=1)
    return (own * shares.to(own.device)).sum()


def emotion_loss(logits: torch.Tensor, labels: torch.Tensor, shares: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy of the emotions.

    Args:
        logits: (clips, emotions).
        labels: (clips,) class indices, -100 for unknown.
        shares: (clips,), *optional*, see `masked_mean`.
    """
    values = F.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="none")
    return masked_mean(values, labels != -100, shares)


def action_unit_loss(
    logits: torch.Tensor, labels: torch.Tensor, focus: float, shares: torch.Tensor | None = None
) -> torch.Tensor:
    """Asymmetric binary cross-entropy of the action units (Ridnik et al. 2021, with γ₊ = 0 and no shift).

    An absent unit of probability p has the weight pᵞ, so that the many easy absent units do not outweigh the few
    present ones.

    Args:
        logits: (clips, action_units).
        labels: (clips, action_units), 1 present, 0 absent, -100 unknown.
        focus: the exponent γ; 0 gives plain cross-entropy.
        shares: (clips,), *optional*, see `masked_mean`.
    """
    logits, labels = logits.float(), labels.float()
    values = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none")
    if focus:
        values = torch.where(labels == 1, values, values * logits.sigmoid() ** focus)
    return masked_mean(values, labels != -100, shares)


def side_loss(
    logits: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, shares: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of the sides of the action units that are present.

    Args:
        logits: (clips, action_units, 3): both sides, left, right.
        labels: (clips, action_units) class indices, -100 for unknown.
        present: (clips, action_units), True where the unit is present.
        shares: (clips,), *optional*, see `masked_mean`.
    """
    values = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    return masked_mean(values.view_as(labels), present & (labels != -100), shares)


def intensity_loss(
    values: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, shares: torch.Tensor | None = None
) -> torch.Tensor:
    """Smooth L1 distance to the intensities of the action units that are present.

    Args:
        values: (clips, action_units) predictions.
        labels: (clips, action_units), 0 for A to 4 for E, -100 for unknown.
        present: (clips, action_units), True where the unit is present.
        shares: (clips,), *optional*, see `masked_mean`.
    """
    distance = F.smooth_l1_loss(values.float(), labels.float(), reduction="none")
    return masked_mean(distance, present & (labels != -100), shares)


def region_loss(
    attentions: torch.Tensor, regions: torch.Tensor, present: torch.Tensor, shares: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean of −log(attention mass inside the region) over the units that are present and have a region.

    Args:
        attentions: (clips, action_units, frames, patches), which sum to 1 over the last two dimensions.
        regions: (action_units, patches), True inside.
        present: (clips, action_units), True where the unit is present.
        shares: (clips,), *optional*, see `masked_mean`.
    """
    inside = (attentions.float().sum(2) * regions).sum(-1)
    return masked_mean(-(inside + 1e-6).log(), present & regions.any(-1), shares)


def alignment_loss(
    tokens: torch.Tensor,
    names: torch.Tensor,
    named: torch.Tensor,
    present: torch.Tensor,
    temperature: float = 0.1,
    shares: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of identifying a present unit's name from its token (InfoNCE, van den Oord et al. 2018).

    Args:
        tokens: (clips, action_units, text size) input tokens of the language model.
        names: (action_units, text size) the language model's embeddings of the names. They get no gradient.
        named: (action_units,), False for a unit whose name is not given.
        present: (clips, action_units), True where the unit is present.
        temperature: the cosine similarities are divided by it.
        shares: (clips,), *optional*, see `masked_mean`.
    """
    similarity = F.normalize(tokens.float(), dim=-1) @ F.normalize(names.detach().float(), dim=-1).T / temperature
    similarity = similarity.masked_fill(~named, torch.finfo(similarity.dtype).min)
    own = torch.arange(len(names), device=tokens.device).expand(tokens.shape[:2])
    values = F.cross_entropy(similarity.flatten(0, 1), own.flatten(), reduction="none")
    return masked_mean(values.view(tokens.shape[:2]), present & named, shares)


def expert_losses(
    config: DeftConfig,
    outputs: Any,
    *,
    emotion_labels: torch.Tensor | None = None,
    au_labels: torch.Tensor | None = None,
    au_side_labels: torch.Tensor | None = None,
    au_intensity_labels: torch.Tensor | None = None,
    unit_names: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None,
    shares: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Computes the loss terms of the experts: those whose labels were passed and whose weight is above 0.

    Args:
        config: the model's config; its `loss_weights` are used.
        outputs: the model's outputs for the clips.
        emotion_labels: (clips,), -100 where the clip has none.
        au_labels: (clips, action_units), 1 present, 0 absent, -100 unknown.
        au_side_labels: (clips, action_units), 0 both sides, 1 left, 2 right, -100 unknown.
        au_intensity_labels: (clips, action_units), 0 for A to 4 for E, -100 unknown.
        unit_names: returns the embeddings of the names, (action_units, text size), and which names are known,
            (action_units,). Without it, there is no alignment term.
        shares: (clips,), *optional*, see `masked_mean`.

    Returns:
        The unweighted terms by name.
    """
    weights, losses = config.loss_weights, {}
    if emotion_labels is not None and "emotion_logits" in outputs:
        losses["emotion"] = emotion_loss(outputs.emotion_logits, emotion_labels, shares)
    if au_labels is not None and "au_logits" in outputs:
        present = au_labels == 1
        losses["action_unit"] = action_unit_loss(outputs.au_logits, au_labels, config.action_unit_focus, shares)
        if weights["region"]:
            regions = region_masks(config, outputs.au_attentions.device)
            losses["region"] = region_loss(outputs.au_attentions, regions, present, shares)
        if au_side_labels is not None:
            losses["side"] = side_loss(outputs.au_side_logits, au_side_labels, present, shares)
        if au_intensity_labels is not None:
            losses["intensity"] = intensity_loss(outputs.au_intensity, au_intensity_labels, present, shares)
    aligned = weights["alignment"] and unit_names is not None and config.action_unit_name_ids
    tokens = (outputs.expert_tokens or {}).get("motion") if aligned else None
    if tokens is not None and au_labels is not None:
        names, named = (part.to(tokens.device) for part in unit_names())
        tokens = tokens[:, : len(names)]  # the emotion's token is not a unit's
        losses["alignment"] = alignment_loss(tokens, names, named, au_labels == 1, shares=shares)
    return {name: value for name, value in losses.items() if weights[name]}


class _OptionalLabel(str):
    """The name of a label argument that a batch may lack.

    `Trainer` reports `eval_loss` only if a batch has every argument of `forward` with "label" in its name
    (`transformers.utils.generic.find_labels`). The experts' labels may be missing.
    """

    __slots__ = ()

    def __contains__(self, part: str) -> bool:
        return part != "label" and super().__contains__(part)


def only_labels_required(forward: Callable) -> Callable:
    """Marks every label argument of `forward` except `labels` as optional, see `_OptionalLabel`."""
    signature = inspect.signature(forward)
    forward.__signature__ = signature.replace(
        parameters=[
            parameter.replace(name=_OptionalLabel(name)) if "label" in name and name != "labels" else parameter
            for name, parameter in signature.parameters.items()
        ]
    )
    return forward
