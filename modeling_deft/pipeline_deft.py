"""`pipeline("video-text-to-text")` for DEFT, which returns an expression report per clip."""

import difflib
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, GenerationConfig, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import ModelOutput

from .conversation_deft import Conversation

TASK = "video-text-to-text"
# The experts' results, which constrain the answer and are part of the report.
RECOGNITION = ("emotion_logits", "au_logits", "au_side_logits", "au_intensity", "expert_gates", "au_attentions")


class DeftVideoTextToTextPipeline(Pipeline):
    r"""
    Explains clips of a face.

    ```python
    >>> explain = pipeline("video-text-to-text", model="org/deft-llm", trust_remote_code=True)
    >>> explain("clip.mp4")["report"]["emotion"]
    ```

    A clip is anything that the processor reads: a path, URL, bytes, folder of frames, list of images or array. Each
    result is a dictionary with `generated_text`; `report`, the [`ExpressionReport`] as JSON data; `report_text`, the
    report as text; and `frames_indices`, the sampled frames, of which the first is the onset and the middle one the
    apex.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=512, do_sample=False)

    def _sanitize_parameters(
        self, text=None, convention=None, grounded=None, generate_kwargs=None, max_new_tokens=None, **kwargs
    ):
        clip_names = self._clip_names()
        generation_names = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
        clip_kwargs, forward = {}, dict(generate_kwargs or {})
        for name, value in kwargs.items():
            if name in clip_names:
                clip_kwargs[name] = value
            elif name in generation_names or name == "streamer":
                forward[name] = value
            else:
                own = {"text", "convention", "grounded", "generate_kwargs", "streamer", "batch_size", "num_workers"}
                near = difflib.get_close_matches(name, sorted(own | clip_names | generation_names), n=1)
                raise TypeError(
                    f"The {TASK} pipeline has no argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
                )
        if max_new_tokens is not None:
            forward["max_new_tokens"] = max_new_tokens
        known = self.model.config.label_conventions
        if convention is not None and convention not in known:
            raise ValueError(
                f"`convention` is {convention!r}; the model was trained with {', '.join(known) or 'none'}."
            )
        # Only arguments that were passed; for all others, the pipeline's own settings apply.
        preprocess = {"text": text, "convention": convention, "clip_kwargs": clip_kwargs or None}
        form = {"grounded": grounded, "has_own_question": text is not None or None}
        generation = {**form, "convention": convention, "generate_kwargs": forward}
        return (
            {name: value for name, value in preprocess.items() if value is not None},
            {name: value for name, value in generation.items() if value not in (None, {})},
            {name: value for name, value in form.items() if value is not None},
        )

    def _clip_names(self) -> set[str]:
        """Names of the video processor's arguments."""
        return set(type(self.processor.video_processor).valid_kwargs.__annotations__)

    def __call__(
        self, videos: Any, text: str | list[dict[str, Any]] | None = None, **kwargs
    ) -> dict[str, Any] | list[dict[str, Any]]:
        r"""
        Args:
            videos: a clip, a list of clips, or a dataset of clips. A list of images, or of paths to images, is one
                clip; any other list of paths is a list of clips.
            text: the question; by default the one that asks for Class, Evidence and Rationale. Or a conversation:
                chat messages of transformers with earlier answers, the last one of the user. It has one block of type
                video, or two for a list of two clips. The result then has `generated_text` and `frames_indices`, which
                is a list per clip if there are two.
            convention: the label convention to answer in, one of `config.label_conventions`; by default the mean of
                all conventions.
            key_frames: onset, apex and offset of the clip, as in [`DeftVideoProcessor`].
            face_landmarks: landmarks of the clip's face, as in [`DeftVideoProcessor`].
            face_box: box of the clip's face, as in [`DeftVideoProcessor`].
            face_source: finds the face, as in [`DeftVideoProcessor`].
            grounded: restrict the answer to the answer format, its class to the emotion head, and its evidence and
                rationale to the recognised units with the measured motion (requires llguidance). By default True for
                the default question, and False for a `text` of your own. For a conversation, the answer is restricted
                to true statements about the clips; by default True.
            batch_size: number of clips per batch.
            max_new_tokens: passed to `generate`.
            streamer: of transformers, such as `TextStreamer`; gets the tokens as they are generated.
            generate_kwargs: further arguments of `generate`. They can also be passed by name.

        Raises:
            TypeError: the pipeline does not have the argument; the message names the closest one.
            ValueError: the model was not trained with this `convention`; or a conversation does not have one video
                block per clip, does not end with a question, or is longer than the language model's context.
        """
        if isinstance(text, (list, tuple)):
            return self._answer(videos, text, kwargs)
        if isinstance(videos, (list, tuple)):
            clips = self.processor.video_processor.list_of_clips(videos)
            if not clips:
                return []
            if len(clips) == 1 and clips[0] is videos:  # the frames of one clip
                return super().__call__([clips], text=text, **kwargs)[0]
        return super().__call__(videos, text=text, **kwargs)

    def conversation(self, videos: Any, **kwargs) -> Conversation:
        """Starts a conversation about a clip, or about a list of two clips, which are read and recognised once.

        Args:
            videos: as for a call.
            kwargs: `convention`, `grounded`, and arguments of the video processor, as for a call.

        Raises:
            ValueError: there are no clips, or more than two.
        """
        preprocess, generation, _ = self._sanitize_parameters(**kwargs)
        own = {**self._preprocess_params, **preprocess}
        clips = self.processor.video_processor.list_of_clips(videos)
        grounded = generation.get("grounded", self._forward_params.get("grounded", True))
        if not 1 <= len(clips) <= 2:
            raise ValueError(f"A conversation is about one clip or two, got {len(clips)}.")
        convention, clip_kwargs = own.get("convention"), own.get("clip_kwargs")
        prepared = [self.preprocess(clip, convention=convention, clip_kwargs=clip_kwargs) for clip in clips]
        return Conversation(self, prepared, convention=convention, grounded=grounded)

    def _answer(self, videos: Any, messages: list[dict[str, Any]], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The answer to a conversation."""
        _, generation, _ = self._sanitize_parameters(**kwargs)
        options = {**self._forward_params.get("generate_kwargs", {}), **generation.pop("generate_kwargs", {})}
        names = {*self._clip_names(), "convention", "grounded"}
        conversation = self.conversation(videos, **{name: kwargs[name] for name in names & set(kwargs)})
        frames = conversation.frames_indices
        return {
            "generated_text": conversation.answer(messages, **options),
            "frames_indices": frames[0] if len(frames) == 1 else frames,
        }

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
        inputs["questions"] = [question]
        (metadata,) = inputs.pop("video_metadata")
        inputs.setdefault("not_measurable", [None])  # collating needs the same keys for every clip
        if "flow_values_videos" in inputs:
            inputs["flow_deviation"] = torch.as_tensor(np.asarray(inputs["flow_deviation"]))
        return {**inputs, "frames_indices": torch.tensor([[int(index) for index in metadata.frames_indices]])}

    def _forward(self, model_inputs, generate_kwargs=None, grounded=None, has_own_question=False, convention=None):
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs or {})
        recognition = self.model.model(
            pixel_values_videos=model_inputs["pixel_values_videos"],
            flow_values_videos=model_inputs["flow_values_videos"],
            convention_ids=model_inputs.get("convention_ids"),
        )
        # For one clip a reason or None; for a batch a list of such lists.
        reasons = model_inputs["not_measurable"]
        if None in reasons or [None] in reasons:
            sequences = self._generate(
                model_inputs, recognition, generate_kwargs, grounded, has_own_question, convention
            )
        else:  # nothing is said about clips that cannot be measured
            sequences = model_inputs["input_ids"][:, :0]
        # Tensors and lists whose first dimension is the clips: transformers can split only such a batch into clips.
        return {
            "sequences": sequences,
            **{name: recognition[name] for name in RECOGNITION},
            "flow_values_videos": model_inputs["flow_values_videos"],
            "flow_deviation": model_inputs.get("flow_deviation"),
            "frames_indices": model_inputs["frames_indices"],
            "not_measurable": reasons,
        }

    def _generate(self, model_inputs, recognition, generate_kwargs, grounded, has_own_question, convention):
        """(clips, new tokens) the answers."""
        if _is_grounded(grounded, has_own_question):
            constraint = self.processor.answer_constraint(
                0,
                recognition,
                flow_values_videos=model_inputs["flow_values_videos"],
                flow_deviation=model_inputs.get("flow_deviation"),
                convention=convention,
            )
            generate_kwargs["logits_processor"] = [*generate_kwargs.get("logits_processor", ()), constraint]
        # The clips have been recognised: generation starts from the experts' tokens, and returns the new tokens only.
        text = model_inputs
        if self.processor.recognition_in_words:
            text = self._prompts(model_inputs, recognition)
        prompts = self.model.model.embed_prompts(text["input_ids"], recognition)
        return self.model.generate(inputs_embeds=prompts, attention_mask=text["attention_mask"], **generate_kwargs)

    def _prompts(self, model_inputs, recognition):
        """The prompts' tokens, which say what was recognised."""
        # For one clip a question; for a batch lists of one question.
        questions = [one if isinstance(one, str) else one[0] for one in model_inputs["questions"]]
        clips = {**model_inputs, "recognition": recognition}
        texts = []
        for place, question in enumerate(questions):
            content = [{"type": "video"}, {"type": "text", "text": question}]
            texts.append(self.processor.render_prompt([{"role": "user", "content": content}], clips, place))
        tokens = self.processor.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        return tokens.to(self.model.device)

    def postprocess(self, model_outputs, grounded=None, has_own_question=False):
        generated = self.processor.tokenizer.decode(model_outputs["sequences"][0], skip_special_tokens=True)
        report = self.processor.post_process_expression(
            generated,
            outputs=ModelOutput({name: model_outputs[name] for name in RECOGNITION}),
            flow_values_videos=model_outputs["flow_values_videos"],
            flow_deviation=model_outputs["flow_deviation"],
            grounded=_is_grounded(grounded, has_own_question),
            not_measurable=model_outputs["not_measurable"],
        )[0]
        return {
            "generated_text": report.text,
            "report": report.to_dict(),
            "report_text": str(report),
            "frames_indices": model_outputs["frames_indices"][0].tolist(),
        }

    def save_pretrained(self, save_directory, **kwargs):
        """Saves the model, the processor and their code. `pipeline(model=save_directory)` loads them again."""
        own = self.model.config.custom_pipelines
        super().save_pretrained(save_directory, **kwargs)
        self.model.config.custom_pipelines = own  # saving must not change the model
        self.processor.save_pretrained(save_directory, **kwargs)


def _is_grounded(grounded: bool | None, has_own_question: bool) -> bool:
    """Whether an answer is held to what was measured: as asked, else unless the question is the caller's own."""
    return not has_own_question if grounded is None else grounded


def register_pipeline(pipeline_class: type[Pipeline]) -> None:
    """Registers the class for `pipeline("video-text-to-text", model=model, processor=processor)`.

    Models from different folders have classes of the same name; the one that was loaded last is used.
    """
    registered = PIPELINE_REGISTRY.supported_tasks.get(TASK)
    if registered is not None and registered["impl"].__name__ != pipeline_class.__name__:
        return  # the task belongs to transformers or to another package
    PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=pipeline_class, pt_model=AutoModelForImageTextToText, type="multimodal"
    )


register_pipeline(DeftVideoTextToTextPipeline)
