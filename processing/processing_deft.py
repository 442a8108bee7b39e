"""Clips and text to model inputs, and the model's outputs to an `ExpressionReport`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers.configuration_utils import PreTrainedConfig
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin

from .action_units import get_action_unit
from .answer_constraint import AnswerConstraint, answer_pattern, answers_pattern
from .clip_statements import ClipFacts, facts_of_report, statements, statements_of_two
from .common_deft import EXPERT_TITLES, SIDE_LABELS, STRUCTURE_TOKENS, TEXTURE_TOKENS
from .expression_report import (
    DEFAULT_INSTRUCTION,
    FIELDS,
    INSUFFICIENT,
    NOT_MEASURABLE,
    ActionUnitFinding,
    ExpressionReport,
    format_answer,
    parse_answer,
)
from .grounded_answer import (
    STILL_REASON,
    allowed_classes,
    contradictions,
    measured_report,
    measurement_in_words,
    possible_answers,
    recognition_in_words,
)
from .motion_evidence import RegionMotion, detection_limits, measure_motion
from .question_targets import answering, answers_of
from .unit_evidence import seen_units
from .video_processing_deft import DeftVideoProcessor, list_of_clips

VIDEO_TOKEN = "<|video|>"
STRUCTURE_TOKEN, TEXTURE_TOKEN, MOTION_TOKEN = "<|structure|>", "<|texture|>", "<|motion|>"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
MEASURED_TITLE = "Measured"  # of the section that says in words what moves
RECOGNISED_TITLE = "Recognised"  # of the section that says in words what the heads decide
THRESHOLD = 0.5  # probability from which an action unit counts as recognised
INTENSITIES = "ABCDE"
_HARDLY_SEEN = 0.025  # a claimed unit less probable than this gets a warning; 5 % of units labelled on people are
SPECIAL_TOKENS = (VIDEO_TOKEN, STRUCTURE_TOKEN, TEXTURE_TOKEN, MOTION_TOKEN)

# ChatML. What the assistant says is marked, end of turn included, so that a trainer can score it alone.
CHAT_TEMPLATE = (
    "{% macro content(message) %}{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for block in message.content %}"
    "{% if block.type == 'video' %}<|video|>{% elif block.type == 'text' %}{{ block.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endmacro %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ content(message) }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ content(message) }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class DeftProcessor(ProcessorMixin):
    r"""
    Wraps a [`DeftVideoProcessor`] and a tokenizer. In the prompt, each `<|video|>` becomes one section an expert:
    a heading and as many placeholder tokens as the expert has; a section whose input is missing is left out.

    Args:
        structure_tokens (`int`): tokens of the structure expert per clip, as in the model's config.
        texture_tokens (`int`): tokens of the texture expert per clip, as in the model's config.
        motion_tokens (`int`): tokens of the motion expert per clip, as in the model's config.
        action_units (`list[str]`): codes, in the order of the model's AU head.
        emotion_labels (`list[str]`): in the order of the model's emotion head.
        coarse_emotion_of (`dict[str, str]`): the coarse class (negative, positive, surprise) of each emotion.
        label_convention (`str`): whose reading of action units the default instruction asks for.
        answer_fields (`list[str]`): the answer's three field names.
        motion_in_words (`bool`): whether the prompt also says in words what was measured: which regions move, where to
            and how far, and which action units could do that.
        recognition_in_words (`bool`): whether a prompt that is made with a model's recognition of the clip, as the
            pipeline makes it, says in words what was recognised: the action units with the motion that bears them
            out, and the class. The action units that could be are then left out.
    """

    # Lists of one value per clip that are no tensors.
    skip_tensor_conversion = [*ProcessorMixin.skip_tensor_conversion, "not_measurable"]

    def __init__(
        self,
        video_processor=None,
        tokenizer=None,
        chat_template=None,
        structure_tokens: int = STRUCTURE_TOKENS,
        texture_tokens: int = TEXTURE_TOKENS,
        motion_tokens: int = 0,
        action_units: Sequence[str] = (),
        emotion_labels: Sequence[str] = (),
        coarse_emotion_of: Mapping[str, str] | None = None,
        label_convention: str = "",
        answer_fields: Sequence[str] = FIELDS,
        motion_in_words: bool = False,
        recognition_in_words: bool = False,
    ):
        for code in action_units:
            get_action_unit(code)
        self.structure_tokens, self.texture_tokens = structure_tokens, texture_tokens
        self.motion_tokens = motion_tokens or len(action_units)
        self.action_units, self.emotion_labels = list(action_units), list(emotion_labels)
        self.coarse_emotion_of = dict(coarse_emotion_of or {})
        self.label_convention, self.answer_fields = label_convention, list(answer_fields)
        self.motion_in_words, self.recognition_in_words = motion_in_words, recognition_in_words
        # Generation goes on at a prompt's end, so padding belongs before its beginning. `init_kwargs` are saved.
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
        self.video_token = VIDEO_TOKEN
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
        self.video_token_ids = [
            tokenizer.convert_tokens_to_ids(token) for token in (STRUCTURE_TOKEN, TEXTURE_TOKEN, MOTION_TOKEN)
        ]
        missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
        if missing:
            raise ValueError(f"The tokenizer lacks {', '.join(missing)}; add them as special tokens first.")
        super().__init__(video_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    # The stock versions resolve `video_processor` through AutoVideoProcessor, which needs torchvision.
    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, VideoProcessorMixin):
            raise TypeError(f"`video_processor` must be a DeftVideoProcessor, got {type(argument).__name__}.")
        return VideoProcessorMixin

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        hub_kwargs = {name: value for name, value in kwargs.items() if name not in ("trust_remote_code", "_from_auto")}
        # Without a config AutoTokenizer loads the model's, and asks on the terminal whether its code may be run.
        tokenizer_kwargs = {"config": PreTrainedConfig(), **kwargs}
        return [
            DeftVideoProcessor.from_pretrained(pretrained_model_name_or_path, **hub_kwargs),
            cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **tokenizer_kwargs),
        ]

    @property
    def default_instruction(self) -> str:
        """The question that asks for the full answer."""
        return self.instruction()

    def instruction(self, convention: str | None = None) -> str:
        """The question that asks for the full answer by a convention; by default the one of the training data."""
        return DEFAULT_INSTRUCTION.format(convention=convention or self.label_convention or "your training data")

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        # The stock check knows clips as paths and 4-D arrays only, and counts bytes and folders wrongly.
        if images is not None or audio is not None:
            raise ValueError("DEFT reads clips and text: pass `videos`, not `images` or `audio`.")
        if text is None and videos is None:
            raise ValueError("Nothing to process: pass `text`, `videos` or both.")
        if text is None:
            return
        prompts = [text] if isinstance(text, str) else text
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("`text` must be a string or a list of strings.")
        placeholders = sum(prompt.count(self.video_token) for prompt in prompts)
        clips = 0 if videos is None else len(list_of_clips(videos))
        if placeholders != clips:
            raise ValueError(
                f"The prompts hold {placeholders} {self.video_token} placeholders and {clips} clips were passed; each "
                "clip needs exactly one. With chat messages, give one block of type 'video' a clip."
            )

    def _process_videos(self, videos, **kwargs):
        needed = {"return_measurement": True} if self.motion_in_words else {}
        processed = self.video_processor(videos, **{**kwargs, **needed})
        count = len(list_of_clips(videos))
        sections = [self.replace_video_token(processed, index) for index in range(count)]
        # The model does not take what is known about the measurement.
        if not kwargs.get("return_measurement"):
            processed.pop("lead_in_flow", None)
        if not kwargs.get("return_metadata"):
            processed.pop("not_measurable", None)
            if self.motion_in_words and not kwargs.get("return_measurement"):
                processed.pop("flow_deviation", None)
        return processed, sections

    def replace_video_token(self, video_inputs: Mapping[str, Any], video_idx: int = 0, **kwargs) -> str:
        """The prompt's sections for one clip, in the order structure, dynamic texture, motion.

        Args:
            video_inputs: what the clips have; see `render_prompt`.
            video_idx: which of the clips.
        """
        sections = []
        if video_inputs.get("pixel_values_videos") is not None:
            sections += [
                (EXPERT_TITLES["structure"], STRUCTURE_TOKEN * self.structure_tokens),
                (EXPERT_TITLES["texture"], TEXTURE_TOKEN * self.texture_tokens),
            ]
        if video_inputs.get("flow_values_videos") is not None:
            recognition = video_inputs.get("recognition") if self.recognition_in_words else None
            if self.motion_in_words or recognition is not None:
                measured = _measured(video_inputs, video_idx)
            if self.motion_in_words:
                words = measurement_in_words(measured, candidates=recognition is None)
                sections.append((MEASURED_TITLE, words))
            if recognition is not None:
                report = self._report_of_heads(recognition, video_idx, measured, THRESHOLD)
                sections.append((RECOGNISED_TITLE, recognition_in_words(report, self.coarse_emotion_of)))
            sections.append((EXPERT_TITLES["motion"], MOTION_TOKEN * self.motion_tokens))
        return "".join(f"{title}: {content}\n" for title, content in sections)

    def _get_num_multimodal_tokens(self, video_sizes=None, **kwargs) -> MultiModalData:
        per_clip = self.structure_tokens + self.texture_tokens + self.motion_tokens
        return MultiModalData(num_video_tokens=None if video_sizes is None else [per_clip] * len(video_sizes))

    def render_prompt(
        self, messages: Sequence[Mapping[str, Any]], video_inputs: Mapping[str, Any], video_idx: int = 0
    ) -> str:
        """The prompt's text for one clip whose tensors are at hand, ready for the tokenizer.

        Args:
            messages: chat messages up to the question, with one block of type video.
            video_inputs: what the clips have; an expert whose tensor is missing or `None` gets no section. With
                `motion_in_words`, `region_motions` has the measured motion of all regions of each clip; without it,
                the motion is measured in `flow_values_videos`, with the errors `flow_deviation` if they are known.
                With `recognition_in_words`, `recognition` has the model's output for the clips.
            video_idx: which of the clips.
        """
        text = self.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        if text.count(self.video_token) != 1:
            raise ValueError(f"The messages hold {text.count(self.video_token)} clips, expected one.")
        return text.replace(self.video_token, self.replace_video_token(video_inputs, video_idx))

    def answer_constraint(
        self,
        prompt_length: int,
        outputs: Any = None,
        *,
        flow_values_videos: Any = None,
        flow_deviation: Any = None,
        region_motions: Sequence[Sequence[RegionMotion]] | None = None,
        convention: str | None = None,
        threshold: float = THRESHOLD,
        longest_rationale: int = 400,
    ) -> AnswerConstraint:
        r"""
        A logits processor for one call of `generate` that lets nothing but readable answers through.

        With `outputs` and `flow_values_videos` an answer says what the heads decide and the motion bears out: a class
        that the emotion head does not contradict, the recognised units with their measured sides, directions and
        magnitudes, and a rationale that says the same. Only the wording, and the class if several are allowed, are the
        language model's.

        Args:
            prompt_length (`int`): `input_ids.shape[1]`.
            outputs (`Any`, *optional*): The recognition of the clips, one per prompt, as `model.model(**clips)`
                returns it. Without flow, the class is the emotion head's, and the evidence names the recognised units
                on the recognised sides; direction, magnitude and rationale are the language model's.
            flow_values_videos (`Any`, *optional*): (clips, frames - 1, 2, h, w), the motion of the clips, in percent
                of the crop width.
            flow_deviation (`Any`, *optional*): (clips, frames - 1, h, w), the standard deviation of its error, which
                the video processor returns with `return_measurement=True`.
            region_motions (`Sequence[Sequence[RegionMotion]]`, *optional*): The motion of all regions of each clip, if
                it was measured before; by default, it is measured in `flow_values_videos`.
            convention (`str | None`, *optional*): Label convention that was asked for; by default the processor's own.
            threshold (`float`, *optional*, defaults to `0.5`): Probability from which a unit counts as recognised.
            longest_rationale (`int`, *optional*, defaults to `400`): Maximum length of a free rationale in characters.

        Raises:
            ImportError: llguidance is not installed.
        """
        options = {"fields": self.answer_fields, "longest_rationale": longest_rationale}
        if outputs is None:
            patterns: Any = answer_pattern(self.emotion_labels, self.action_units, **options)
            return AnswerConstraint(self.tokenizer, patterns, prompt_length)
        patterns = []
        clips = {"flow_values_videos": flow_values_videos, "flow_deviation": flow_deviation}
        clips["region_motions"] = region_motions
        for row in range(len(outputs.emotion_logits)):
            classes = allowed_classes(self._class_scores(outputs, row), self.coarse_emotion_of)
            if flow_values_videos is None:
                facts = self._recognised(outputs, row, threshold)
                patterns.append(answer_pattern(classes, self.action_units, facts=facts, **options))
                continue
            report = self._report_of_heads(outputs, row, _measured(clips, row), threshold)
            named = convention or self.label_convention
            patterns.append(answers_pattern(possible_answers(report, classes, named, self.answer_fields)))
        return AnswerConstraint(self.tokenizer, patterns, prompt_length)

    def conversation_constraint(
        self,
        prompt_length: int,
        questions: Sequence[str],
        outputs: Any,
        *,
        flow_values_videos: Any,
        flow_deviation: Any = None,
        not_measurable: Sequence[str | None] | None = None,
        convention: str | None = None,
        threshold: float = THRESHOLD,
    ) -> AnswerConstraint:
        r"""
        A logits processor for one call of `generate` that lets nothing but true statements about one or two clips
        through: one of those that may answer the last question, or up to three.

        Args:
            prompt_length (`int`): Number of tokens before the answer; 0 if `generate` gets embeddings.
            questions (`Sequence[str]`): The questions of the conversation, the last one last.
            outputs (`Any`): The recognition of the clips, as `model.model(**clips)` returns it.
            flow_values_videos (`Any`): (clips, frames - 1, 2, h, w), the motion of the clips, in percent of the crop
                width.
            flow_deviation (`Any`, *optional*): (clips, frames - 1, h, w), as in `answer_constraint`.
            not_measurable (`Sequence[str | None]`, *optional*): For every clip why it cannot be measured, or `None`.
            convention (`str | None`, *optional*): Label convention that was asked for; by default the processor's own.
            threshold (`float`, *optional*, defaults to `0.5`): Probability from which a unit counts as recognised.

        Raises:
            ImportError: llguidance is not installed.
            ValueError: The last question names an action unit that does not exist, or there are more than two clips.
        """
        clips = []
        for row in range(len(outputs.emotion_logits)):
            reason = not_measurable[row] if not_measurable else None
            if reason is not None:
                clips.append(ClipFacts(reason=reason))
                continue
            scores = self._class_scores(outputs, row)
            classes = allowed_classes(scores, self.coarse_emotion_of)
            measured = measure_motion(_array(flow_values_videos[row]), deviation=_row(flow_deviation, row))
            report = self._report_of_heads(outputs, row, measured, threshold)
            coarse, named = self.coarse_emotion_of.get(classes[0]), convention or self.label_convention
            clips.append(facts_of_report(report, measured, classes, coarse_emotion=coarse, convention=named))
        if len(clips) > 2:
            raise ValueError(f"A conversation is about one clip or two, got {len(clips)}.")
        known = statements(clips[0]) if len(clips) == 1 else statements_of_two(*clips)
        answers = answers_of(answering(known, questions, self.emotion_labels))
        return AnswerConstraint(self.tokenizer, answers_pattern(answers), prompt_length)

    def post_process_expression(
        self,
        generated: str | Sequence[str] | Any,
        *,
        outputs: Any = None,
        flow_values_videos: Any = None,
        flow_deviation: Any = None,
        threshold: float = THRESHOLD,
        grounded: bool = False,
        not_measurable: Sequence[str | None] | None = None,
    ) -> list[ExpressionReport]:
        r"""
        One [`ExpressionReport`] per clip.

        Args:
            generated (`str | Sequence[str] | Any`): The answers' texts; or a model output, whose heads are then read.
            outputs (`Any`, *optional*): A model output to take the scores from when `generated` is text.
            flow_values_videos (`Any`, *optional*): (clips, frames - 1, 2, h, w), the clips' motion in percent of the
                crop width. With it, a clip in which nothing moves above its noise gets the status
                `"insufficient_motion"`, whatever the model said, and statements that contradict the motion get a
                warning.
            flow_deviation (`Any`, *optional*): (clips, frames - 1, h, w), as in `answer_constraint`.
            threshold (`float`, *optional*, defaults to `0.5`): Probability from which an action unit counts as
                recognised.
            grounded (`bool`, *optional*, defaults to `False`): Whether the texts were generated with
                `answer_constraint(…, outputs, flow_values_videos=…)`. The report then also has the standard errors of
                the magnitudes, and the recognised units that the motion does not bear out.
            not_measurable (`Sequence[str | None]`, *optional*): For every clip why it cannot be measured, or `None` if
                it can. A clip with a reason gets [`ExpressionReport.not_measurable`].
        """
        if isinstance(generated, str):
            generated = [generated]
        if not isinstance(generated, (list, tuple)):
            outputs, generated = generated, None
        count = len(generated) if generated is not None else len(outputs.emotion_logits)
        reports = []
        for index in range(count):
            reason = not_measurable[index] if not_measurable else None
            if reason is not None:
                report = ExpressionReport.not_measurable(reason)
                report.text = format_answer(report, fields=self.answer_fields)
                reports.append(report)
                continue
            measured, seen = None, {}
            if flow_values_videos is not None:
                flow, deviation = _array(flow_values_videos[index]), _row(flow_deviation, index)
                measured = measure_motion(flow, deviation=deviation)
                seen = seen_units(flow, deviation=deviation)
            heads = None
            if outputs is not None and (generated is None or (grounded and measured is not None)):
                heads = self._report_of_heads(outputs, index, measured, threshold)
            if generated is None:
                report = heads
            else:
                report = parse_answer(generated[index], emotion_labels=self.emotion_labels, fields=self.answer_fields)
                if report.status == NOT_MEASURABLE:  # this is for the caller to say, and not for a language model
                    warning = f"The model wrote that the clip is not measurable: {report.reason}"
                    report = ExpressionReport(text=report.text, parsed=False, warnings=[warning])
                scores = {} if outputs is None else self._class_scores(outputs, index)
                _hold_against_measurement(report, measured, scores, self.coarse_emotion_of, seen)
                if heads is not None and report.parsed and not report.warnings:
                    report.action_units, report.evidence, report.reason = (
                        heads.action_units,
                        heads.evidence,
                        heads.reason,
                    )
            if outputs is not None:
                self._add_scores(report, outputs, index)
            report.coarse_emotion = self.coarse_emotion_of.get(report.emotion)
            report.detection_limits = detection_limits(measured or [])
            reports.append(report)
        return reports

    def _class_scores(self, outputs: Any, index: int) -> dict[str, float]:
        probabilities = outputs.emotion_logits[index].float().softmax(-1).tolist()
        return dict(zip(self.emotion_labels, probabilities, strict=True))

    def _recognised(self, outputs: Any, index: int, threshold: float) -> dict[str, str]:
        """Code -> side of the units that the recognition head recognises in one clip."""
        scores = outputs.au_logits[index].float().sigmoid().tolist()
        sides = outputs.au_side_logits[index].argmax(-1).tolist()
        return {
            code: SIDE_LABELS[side]
            for code, score, side in zip(self.action_units, scores, sides, strict=True)
            if score >= threshold
        }

    def _report_of_heads(
        self, outputs: Any, index: int, measured: Sequence[RegionMotion] | None, threshold: float
    ) -> ExpressionReport:
        """What the heads say about one clip, held against the motion if it was measured."""
        emotion = self.emotion_labels[int(outputs.emotion_logits[index].argmax())]
        recognised = self._recognised(outputs, index, threshold)
        if measured is not None:
            return measured_report(recognised, emotion, measured)
        units = [ActionUnitFinding(code, get_action_unit(code).name, side) for code, side in recognised.items()]
        return ExpressionReport(emotion=emotion, action_units=units)

    def _add_scores(self, report: ExpressionReport, outputs: Any, index: int) -> None:
        report.scores = self._class_scores(outputs, index)
        scores = dict(zip(self.action_units, outputs.au_logits[index].float().sigmoid().tolist(), strict=True))
        for finding in report.action_units:
            finding.score = scores.get(finding.code)
            if finding.code in scores:
                graded = float(outputs.au_intensity[index, self.action_units.index(finding.code)])
                finding.intensity = INTENSITIES[min(max(round(graded), 0), 4)]


def _row(values: Any, index: int) -> np.ndarray | None:
    return None if values is None else _array(values[index])


def _array(values: Any) -> np.ndarray:
    """From an array or a tensor on any device and of any type."""
    return values.detach().float().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _measured(video_inputs: Mapping[str, Any], index: int) -> Sequence[RegionMotion]:
    """The motion of all regions of one of the clips."""
    known = video_inputs.get("region_motions")
    if known is not None:
        return known[index]
    deviation = _row(video_inputs.get("flow_deviation"), index)
    return measure_motion(_array(video_inputs["flow_values_videos"][index]), deviation=deviation)


def _hold_against_measurement(
    report: ExpressionReport,
    measured: Sequence[RegionMotion] | None,
    scores: Mapping[str, float],
    coarse_emotion_of: Mapping[str, str],
    probabilities: Mapping[str, float],
) -> None:
    """Lets what was measured overrule and question what was written.

    Args:
        report (`ExpressionReport`): Is changed in place.
        measured (`Sequence[RegionMotion]`, *optional*): Motion of all regions.
        scores (`Mapping[str, float]`): Emotion -> probability by the head.
        coarse_emotion_of (`Mapping[str, str]`): Emotion -> coarse class.
        probabilities (`Mapping[str, float]`): Code -> probability of the unit given the motion, from `seen_units`.
    """
    if measured is not None and not any(item.significant for item in measured):
        if not report.insufficient_motion:
            report.warnings.append(f"{STILL_REASON.rstrip('.')}; the model's answer is set aside.")
        report.emotion, report.action_units, report.evidence = None, [], []
        report.status, report.reason = INSUFFICIENT, STILL_REASON
        return
    report.warnings += contradictions(report, measured, scores, coarse_emotion_of)
    for finding in report.action_units:
        probability = probabilities.get(finding.code, 1.0)
        if probability < _HARDLY_SEEN:
            report.warnings.append(f"{finding.code}: the motion does not show it (probability {probability:.3f}).")


# Saving copies the code next to the settings.
DeftProcessor.register_for_auto_class("AutoProcessor")
