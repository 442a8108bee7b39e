"""`pipeline("video-text-to-text")` for DEFT: a clip in, an expression report out."""

import torch
from transformers import GenerationConfig, Pipeline


class DeftVideoTextToTextPipeline(Pipeline):
    r"""
    Explains clips of a face.

    ```python
    >>> explain = pipeline("video-text-to-text", model="org/deft-llm", trust_remote_code=True)
    >>> explain("clip.mp4")["report"]["emotion"]
    ```

    A clip is anything the processor reads: path, bytes, folder of frames, array. Each result is a dictionary:
    `generated_text`; `report`, the [`ExpressionReport`] as plain JSON data; `report_text`, the same to read;
    `frames_indices`, the frames looked at, the first of them the onset, the one in the middle the apex.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=512, do_sample=False)

    def _sanitize_parameters(
        self, text=None, convention=None, grounded=None, generate_kwargs=None, max_new_tokens=None, **clip_kwargs
    ):
        forward = dict(generate_kwargs or {})
        if max_new_tokens is not None:
            forward["max_new_tokens"] = max_new_tokens
        known = self.model.config.label_conventions
        if convention is not None and convention not in known:
            raise ValueError(
                f"`convention` is {convention!r}; the model was trained with {', '.join(known) or 'none'}."
            )
        return (
            {"text": text, "convention": convention, "clip_kwargs": clip_kwargs},
            {"generate_kwargs": forward, "grounded": grounded},
            {},
        )

    def __call__(self, videos, text: str | None = None, **kwargs):
        r"""
        Args:
            videos: a clip, a list of clips, or a dataset of clips. A list of paths is a list of clips.
            text: the question; by default the one that asks for Class, Evidence and Rationale.
            convention: whose reading of action units is asked for, one of `config.label_conventions`; by default all
                have their say.
            key_frames, face_landmarks, face_box, face_source: of the clip, as in [`DeftVideoProcessor`].
            grounded: hold the answer to its form, and its evidence to the units and sides that the motion expert
                recognised (needs llguidance). By default for the question that asks for Class, Evidence and
                Rationale, and not for a `text` of your own; False lets the language model say what it likes.
            max_new_tokens, generate_kwargs: for `generate`.
        """
        return super().__call__(videos, text=text, **kwargs)

    def preprocess(self, clip, text=None, convention=None, clip_kwargs=None):
        question = text or self.processor.instruction(convention)
        content = [{"type": "video", "video": clip}, {"type": "text", "text": question}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
            processor_kwargs={**(clip_kwargs or {}), "return_metadata": True},
        )
        if convention is not None:
            inputs["convention_ids"] = torch.tensor([self.model.config.label_conventions.index(convention)])
        return {**inputs, "has_own_question": text is not None}

    def _forward(self, model_inputs, generate_kwargs=None, grounded=None):
        metadata = model_inputs.pop("video_metadata")
        if grounded is None:
            grounded = not model_inputs["has_own_question"]
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs or {})
        recognition = self.model.model(
            pixel_values_videos=model_inputs["pixel_values_videos"],
            flow_values_videos=model_inputs["flow_values_videos"],
            convention_ids=model_inputs.get("convention_ids"),
        )
        if grounded:
            constraint = self.processor.answer_constraint(0, recognition)
            generate_kwargs["logits_processor"] = [*generate_kwargs.get("logits_processor", ()), constraint]
        # The experts have spoken; what is generated starts from their tokens, and is all that comes back.
        prompts = self.model.model.embed_prompts(model_inputs["input_ids"], recognition)
        sequences = self.model.generate(
            inputs_embeds=prompts, attention_mask=model_inputs["attention_mask"], **generate_kwargs
        )
        return {
            "sequences": sequences,
            "recognition": recognition,
            "flow_values_videos": model_inputs["flow_values_videos"],
            "video_metadata": metadata,
        }

    def postprocess(self, model_outputs):
        generated = self.processor.tokenizer.decode(model_outputs["sequences"][0], skip_special_tokens=True)
        report = self.processor.post_process_expression(
            generated,
            outputs=model_outputs["recognition"],
            flow_values_videos=model_outputs["flow_values_videos"],
        )[0]
        return {
            "generated_text": generated,
            "report": report.to_dict(),
            "report_text": str(report),
            "frames_indices": [int(index) for index in model_outputs["video_metadata"][0].frames_indices],
        }
