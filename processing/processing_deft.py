"""Clips and text to model inputs, and the model's outputs to an `ExpressionReport`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers.configuration_utils import PreTrainedConfig
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin

from .action_units import get_action_unit
from .answer_constraint import AnswerConstraint, answer_pattern
from .common_deft import EXPERT_TITLES, SIDE_LABELS, STRUCTURE_TOKENS, TEXTURE_TOKENS
from .expression_report import (
    DEFAULT_INSTRUCTION,
    FIELDS,
    ActionUnitFinding,
    ExpressionReport,
    MotionEvidence,
    parse_answer,
)
from .motion_evidence import RegionMotion, measure_motion, octants_apart
from .unit_evidence import seen_units
from .video_processing_deft import DeftVideoProcessor, list_of_clips

VIDEO_TOKEN = "<|video|>"
STRUCTURE_TOKEN, TEXTURE_TOKEN, MOTION_TOKEN = "<|structure|>", "<|texture|>", "<|motion|>"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
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
        structure_tokens, texture_tokens, motion_tokens (`int`): as in the model's config.
        action_units (`list[str]`): codes, in the order of the model's AU head; one motion token each.
        emotion_labels (`list[str]`): in the order of the model's emotion head.
        coarse_emotion_of (`dict[str, str]`): the coarse class (negative, positive, surprise) of each emotion.
        label_convention (`str`): whose reading of action units the default instruction asks for.
        answer_fields (`list[str]`): the answer's three field names.
    """

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
    ):
        for code in action_units:
            get_action_unit(code)
        self.structure_tokens, self.texture_tokens = structure_tokens, texture_tokens
        self.motion_tokens = motion_tokens or len(action_units)
        self.action_units, self.emotion_labels = list(action_units), list(emotion_labels)
        self.coarse_emotion_of = dict(coarse_emotion_of or {})
        self.label_convention, self.answer_fields = label_convention, list(answer_fields)
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
        processed = self.video_processor(videos, **kwargs)
        count = len(list_of_clips(videos))
        return processed, [self.replace_video_token(processed, index) for index in range(count)]

    def replace_video_token(self, video_inputs: Mapping[str, Any], video_idx: int = 0, **kwargs) -> str:
        """The prompt's sections for one clip, in the order structure, dynamic texture, motion."""
        sections = []
        if video_inputs.get("pixel_values_videos") is not None:
            sections += [
                (EXPERT_TITLES["structure"], STRUCTURE_TOKEN, self.structure_tokens),
                (EXPERT_TITLES["texture"], TEXTURE_TOKEN, self.texture_tokens),
            ]
        if video_inputs.get("flow_values_videos") is not None:
            sections.append((EXPERT_TITLES["motion"], MOTION_TOKEN, self.motion_tokens))
        return "".join(f"{title}: {token * count}\n" for title, token, count in sections)

    def _get_num_multimodal_tokens(self, video_sizes=None, **kwargs) -> MultiModalData:
        per_clip = self.structure_tokens + self.texture_tokens + self.motion_tokens
        return MultiModalData(num_video_tokens=None if video_sizes is None else [per_clip] * len(video_sizes))

    def render_prompt(self, messages: Sequence[Mapping[str, Any]], video_inputs: Mapping[str, Any]) -> str:
        """The prompt's text for one clip whose tensors are at hand, ready for the tokenizer.

        Args:
            messages: chat messages up to the question, with one block of type video.
            video_inputs: what the clip has; an expert whose tensor is missing or `None` gets no section.
        """
        text = self.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        if text.count(self.video_token) != 1:
            raise ValueError(f"The messages hold {text.count(self.video_token)} clips, expected one.")
        return text.replace(self.video_token, self.replace_video_token(video_inputs))

    def answer_constraint(
        self, prompt_length: int, outputs: Any = None, *, threshold: float = 0.5, longest_rationale: int = 400
    ) -> AnswerConstraint:
        r"""
        A logits processor for one call of `generate` that lets nothing but readable answers through.

        Args:
            prompt_length: `input_ids.shape[1]`.
            outputs: the recognition of the clips, one a prompt, as `model.model(**clips)` returns it. With it the
                evidence names the recognised units on the recognised sides and no others.
            threshold: probability from which a unit counts as recognised.
            longest_rationale: characters after which the rationale is cut off.

        Raises:
            ImportError: llguidance is not installed.
        """
        options = {"fields": self.answer_fields, "longest_rationale": longest_rationale}
        if outputs is None:
            patterns: Any = answer_pattern(self.emotion_labels, self.action_units, **options)
        else:
            present = outputs.au_logits.sigmoid() >= threshold
            sides = outputs.au_side_logits.argmax(-1)
            patterns = []
            for row in range(len(present)):
                columns = present[row].nonzero().flatten().tolist()
                facts = {self.action_units[column]: SIDE_LABELS[int(sides[row, column])] for column in columns}
                patterns.append(answer_pattern(self.emotion_labels, self.action_units, facts=facts, **options))
        return AnswerConstraint(self.tokenizer, patterns, prompt_length)

    def post_process_expression(
        self,
        generated: str | Sequence[str] | Any,
        *,
        outputs: Any = None,
        flow_values_videos: Any = None,
        threshold: float = 0.5,
    ) -> list[ExpressionReport]:
        r"""
        One [`ExpressionReport`] a clip.

        Args:
            generated: the answers' texts; or a model output, whose `emotion_logits` and `au_logits` are then read.
            outputs: a model output to take the scores from when `generated` is text.
            flow_values_videos: `(clips, frames - 1, 2, h, w)`, the clips' motion. With it a clip in which nothing
                moves above its noise gets `insufficient_motion`, whatever the model said, and claimed motion that was
                not measured gets a warning.
            threshold: probability from which an action unit counts as present when there is no text.
        """
        if isinstance(generated, str):
            generated = [generated]
        if not isinstance(generated, (list, tuple)):
            outputs, generated = generated, None
        count = len(generated) if generated is not None else len(outputs.emotion_logits)
        reports = []
        for index in range(count):
            measured = None if flow_values_videos is None else measure_motion(_array(flow_values_videos[index]))
            if generated is not None:
                report = parse_answer(generated[index], emotion_labels=self.emotion_labels, fields=self.answer_fields)
            else:
                report = self._report_of_scores(outputs, index, measured or [], threshold)
            if outputs is not None:
                self._add_scores(report, outputs, index)
            if measured is not None:
                _hold_against_motion(report, measured, seen_units(_array(flow_values_videos[index])))
            report.coarse_emotion = self.coarse_emotion_of.get(report.emotion)
            reports.append(report)
        return reports

    def _report_of_scores(
        self, outputs: Any, index: int, measured: Sequence[RegionMotion], threshold: float
    ) -> ExpressionReport:
        report = ExpressionReport(emotion=self.emotion_labels[int(outputs.emotion_logits[index].argmax())])
        scores = outputs.au_logits[index].sigmoid().tolist()
        for row, (code, score) in enumerate(zip(self.action_units, scores, strict=True)):
            if score < threshold:
                continue
            unit = get_action_unit(code)
            # Motion is no evidence for a unit that it cannot test, whatever else moves there.
            region = unit.motions[0].region if unit.testable and unit.motions else None
            moved = [item for item in measured if item.significant and item.region == region]
            sides = {item.side for item in moved}
            side = None if not sides else "both" if len(sides) == 2 else sides.pop()
            # What was measured comes first; what flow cannot tell, the head may.
            side = side or SIDE_LABELS[int(outputs.au_side_logits[index, row].argmax())]
            report.action_units.append(ActionUnitFinding(code, unit.name, side))
            if moved:
                strongest = moved[0]
                report.evidence.append(
                    MotionEvidence(code, strongest.region, strongest.direction, round(strongest.magnitude, 1))
                )
        return report

    def _add_scores(self, report: ExpressionReport, outputs: Any, index: int) -> None:
        probabilities = outputs.emotion_logits[index].float().softmax(-1).tolist()
        report.scores = dict(zip(self.emotion_labels, probabilities, strict=True))
        scores = dict(zip(self.action_units, outputs.au_logits[index].float().sigmoid().tolist(), strict=True))
        for finding in report.action_units:
            finding.score = scores.get(finding.code)
            if finding.code in scores:
                graded = float(outputs.au_intensity[index, self.action_units.index(finding.code)])
                finding.intensity = INTENSITIES[min(max(round(graded), 0), 4)]
        best = max(report.scores, key=report.scores.get)
        if report.emotion is not None and best != report.emotion:
            report.warnings.append(f"The text says {report.emotion}, the emotion head {best}.")


def _array(values: Any) -> np.ndarray:
    """From an array or a tensor on any device and of any type."""
    return values.detach().float().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _hold_against_motion(
    report: ExpressionReport, measured: Sequence[RegionMotion], probabilities: Mapping[str, float]
) -> None:
    """Lets what was measured overrule and question what was written.

    Args:
        report (`ExpressionReport`): Is changed in place.
        measured (`Sequence[RegionMotion]`): Motion of all regions.
        probabilities (`Mapping[str, float]`): Code -> probability of the unit given the motion, from `seen_units`.
    """
    moved = {(item.region, item.side): item for item in measured if item.significant}
    if not moved:
        if not report.insufficient_motion:
            report.warnings.append("No region moves above the noise of the clip; the model's answer is set aside.")
        report.emotion, report.action_units, report.evidence = None, [], []
        report.insufficient_motion = True
        return
    sides = {finding.code: finding.side for finding in report.action_units}
    for item in report.evidence:
        side = sides[item.action_unit]
        for one in ("right", "left") if side in ("both", None) else (side,):
            seen = moved.get((item.region, one))
            if seen is None or (octants_apart(seen.direction, item.direction) or 0) > 1:
                what = "is still" if seen is None else f"moves {seen.direction}"
                report.warnings.append(
                    f"{item.action_unit}: the answer says the {item.region} moves {item.direction}; "
                    f"on the {one} side it {what}."
                )
    for finding in report.action_units:
        probability = probabilities.get(finding.code, 1.0)
        if probability < _HARDLY_SEEN:
            report.warnings.append(f"{finding.code}: the motion does not show it (probability {probability:.3f}).")


# Saving copies the code next to the settings.
DeftProcessor.register_for_auto_class("AutoProcessor")
