"""Generation for prompts that contain clips."""

from typing import Any

import torch
from transformers.generation import GenerationMixin

from .configuration_deft import EXPERTS


class DeftGenerationMixin(GenerationMixin):
    """`generate` for [`DeftForConditionalGeneration`]."""

    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs):
        """See [`~transformers.GenerationMixin.generate`].

        If the caller passes `max_length`, the model's default `max_new_tokens` is not used. It would override
        `max_length` otherwise.
        """
        own = {name: getattr(generation_config, name, None) for name in ("max_length", "max_new_tokens")} | kwargs
        if own["max_length"] is not None and own["max_new_tokens"] is None:
            kwargs["max_new_tokens"] = None
        return super().generate(inputs, generation_config, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids,
        inputs_embeds=None,
        flow_values_videos=None,
        expert_states=None,
        is_first_iteration=False,
        use_cache=True,
        **kwargs,
    ):
        # transformers drops pixel_values_videos after the prefill, but does not know our other inputs.
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            use_cache=use_cache,
            **kwargs,
        )
        if is_first_iteration or not use_cache:
            model_inputs["flow_values_videos"] = flow_values_videos
            model_inputs["expert_states"] = expert_states
        return model_inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ):
        """Repeats all clips of a prompt together, for beams and for several returned sequences.

        The version of transformers repeats each row by itself, which mixes up the clips of a prompt with several.
        """
        clips = {
            name: model_kwargs.pop(name)
            for name in ("pixel_values_videos", "flow_values_videos", "convention_ids")
            if model_kwargs.get(name) is not None
        }
        if expand_size > 1 and clips:
            count = len(next(iter(clips.values())))
            prompts = (
                len(input_ids) if input_ids is not None and input_ids.shape[1] else len(model_kwargs["inputs_embeds"])
            )
            owners = torch.arange(prompts)
            if count != prompts:
                owners = torch.arange(prompts).repeat_interleave(self._clips_per_prompt(input_ids).cpu())
            order = torch.cat(
                [(owners == prompt).nonzero().flatten().repeat(expand_size) for prompt in range(prompts)]
            )
            clips = {name: value[order.to(value.device)] for name, value in clips.items()}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **clips}

    def _clips_per_prompt(self, input_ids: torch.LongTensor | None) -> torch.Tensor:
        """(batch,) number of clips, counted from the placeholders of an expert."""
        for name in reversed(EXPERTS):
            tokens, token_id = getattr(self.config, f"{name}_tokens"), getattr(self.config, f"{name}_token_id")
            if input_ids is not None and tokens and token_id is not None and bool((input_ids == token_id).any()):
                return (input_ids == token_id).sum(1) // tokens
        raise ValueError(
            "Prompts with several clips need input_ids: their placeholders assign each clip to its prompt."
        )


__all__ = ["DeftGenerationMixin"]
