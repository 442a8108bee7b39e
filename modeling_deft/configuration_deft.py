"""DEFT configuration: the language model, the vision backbones, the motion encoder and the recognised classes."""

import re

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, __version__
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

try:
    from transformers.configuration_utils import SubConfigSpec
except ImportError as error:
    raise ImportError(
        f"DEFT needs transformers 5.20 or newer; {__version__} is installed. Run `pip install -U transformers`."
    ) from error

TESTED_TRANSFORMERS = ("5.20", "5.24")  # oldest and newest release that the tests run on; as in pyproject.toml


def newer_release_warning(version: str) -> str | None:
    """Returns a warning if this release of transformers is newer than the tested ones, else `None`."""
    oldest, newest = TESTED_TRANSFORMERS
    if tuple(int(part) for part in version.split(".")[:2]) <= tuple(int(part) for part in newest.split(".")):
        return None
    return (
        f"This model's code was tested with transformers {oldest} to {newest}, and {version} is installed: if it "
        f"fails, run `pip install 'transformers~={newest}.0'` or load a newer revision of the model."
    )


if (_warning := newer_release_warning(__version__)) is not None:
    logging.get_logger(__name__).warning(_warning)

AUTO_MAP = {
    "AutoConfig": "configuration_deft.DeftConfig",
    "AutoModel": "modeling_deft.DeftModel",
    "AutoModelForImageTextToText": "modeling_deft.DeftForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_deft.DeftForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_deft.DeftForConditionalGeneration",
}
CUSTOM_PIPELINES = {
    "video-text-to-text": {
        "impl": "pipeline_deft.DeftVideoTextToTextPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}
LOSS_WEIGHTS = {
    "language": 1.0,
    "emotion": 0.5,
    "action_unit": 2.0,
    "region": 0.5,
    "side": 1.0,
    "intensity": 0.2,
    "alignment": 0.5,
}
EXPERTS = ("structure", "texture", "motion")
COARSE_EMOTIONS = ("negative", "positive", "surprise", "others")
_CODE = re.compile(r"(AU|AD|M)\d+")


@strict
class DeftMotionConfig(PreTrainedConfig):
    r"""
    The motion-semantics expert, which reads optical flow.

    Args:
        flow_size (`int`): side of the square flow grid.
        patch_size (`int`): side of a patch in cells of the grid; divides `flow_size`.
        num_flow_frames (`int`): most flow fields a clip can have.
        hidden_size (`int`): width of the encoder, whose layers attend over space, then over time.
        intermediate_size (`int`): width of the encoder's MLPs.
        num_hidden_layers (`int`): number of layers of the encoder.
        num_attention_heads (`int`): number of attention heads per layer; divides `hidden_size`.
        layer_norm_eps (`float`): epsilon of the layer norms.
        initializer_range (`float`): standard deviation of the initial weights.
        attention_reach (`int`, *optional*): how many rows and columns away a patch attends to other patches of its
            frame, per layer, and an action unit's query to patches around its regions; by default to all. With a
            reach, an action unit is judged from its neighbourhood in the face only, so that the model does not learn
            which distant units occur together in the training data. With 0, a patch attends to itself over time only.
    """

    model_type = "deft_motion"
    base_config_key = "motion_config"

    flow_size: int = 32
    patch_size: int = 4
    num_flow_frames: int = 16
    hidden_size: int = 256
    intermediate_size: int = 1024
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    attention_reach: int | None = None

    def validate_architecture(self):
        """Raises `ValueError` for sizes that do not divide one another, and for a negative reach."""
        if self.flow_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide flow_size {self.flow_size}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not divide hidden_size {self.hidden_size}."
            )
        if self.attention_reach is not None and self.attention_reach < 0:
            raise ValueError(f"attention_reach is {self.attention_reach}; expected at least 0, or null for no limit.")


@strict
class DeftConfig(PreTrainedConfig):
    r"""
    Args:
        text_config: any causal language model of transformers.
        structure_config: any vision backbone of transformers; sees the onset frame.
        texture_config: any vision backbone of transformers, or VideoMAE; sees the frames minus the onset frame.
        motion_config ([`DeftMotionConfig`]): sees the optical flow.
        experts (`list[str]`): the experts of the model. Must include motion; `["motion"]` makes a model that reads
            optical flow only.
        action_units (`list[str]`): codes of the action units; one query, one logit and one language token each.
        action_unit_regions (`dict[str, list]`): for each code, the ellipses (cx, cy, rx, ry) where its motion is
            expected, in units of the crop. They are the targets of the region loss.
        emotion_labels (`list[str]`): the classes of the emotion head.
        coarse_emotion_of (`dict[str, str]`): the coarse class of each label: negative, positive, surprise or others.
        action_unit_name_ids (`dict[str, list[int]]`): for each code, the token ids of its name. The alignment loss
            moves the unit's token towards their embeddings; a unit without ids has no alignment loss.
        label_conventions (`list[str]`): the label conventions that the emotion head can be conditioned on. Empty for
            a head that is not conditioned.
        image_size (`int`): side in pixels of `pixel_values_videos`; by default the structure backbone's.
        structure_tokens (`int`): language tokens of the structure expert per clip.
        texture_tokens (`int`): language tokens of the texture expert per clip. The motion expert has one token per
            action unit.
        emotion_token (`bool`): whether one more token follows those of the motion expert: the emotion head's
            probabilities. The language model then does not have to infer the class by itself.
        texture_share (`float`): share of the patches that a VideoMAE texture backbone reads, from 0 to 1. The patches
            that change most are read. A smaller share needs less time and memory.
        expert_size (`int`): width of the pooled experts in the emotion head.
        structure_token_id (`int`): placeholder of the structure expert's tokens in `input_ids`.
        texture_token_id (`int`): placeholder of the texture expert's tokens in `input_ids`.
        motion_token_id (`int`): placeholder of the motion expert's tokens in `input_ids`.
        loss_weights (`dict[str, float]`): weights of the loss terms language, emotion, action_unit, region, side,
            intensity and alignment. Terms that are not given have the default weight. A term of weight 0 is not
            computed.
        action_unit_focus (`float`): exponent γ that lowers the weight of easy absent units in the AU loss; 0 gives
            plain cross-entropy.
        appearance_swap (`float`): share of the training clips that are paired with the structure of another clip in
            the batch, so that the model cannot infer the motion from the identity.
        expert_dropout (`float`): share of the training clips whose structure is dropped, and share of those whose
            texture is dropped.
        emotion_temperature (`float`): the emotion logits are divided by it in evaluation mode.
        action_unit_temperature (`float`): the action unit logits are divided by it in evaluation mode.
    """

    model_type = "deft"
    # What `Trainer.predict` leaves out of its predictions.
    keys_to_ignore_at_inference = ["past_key_values", "cache", *(f"{term}_loss" for term in LOSS_WEIGHTS)]
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3"),
        "structure_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov2"),
        "texture_config": SubConfigSpec(config_class=AutoConfig, model_type="videomae"),
        "motion_config": SubConfigSpec(config_class=DeftMotionConfig),
    }

    text_config: dict | PreTrainedConfig | None = None
    structure_config: dict | PreTrainedConfig | None = None
    texture_config: dict | PreTrainedConfig | None = None
    motion_config: dict | PreTrainedConfig | None = None
    experts: list[str] | tuple[str, ...] = EXPERTS
    action_units: list[str] | tuple[str, ...] = ()
    action_unit_regions: dict | None = None
    emotion_labels: list[str] | tuple[str, ...] = ()
    coarse_emotion_of: dict | None = None
    image_size: int | None = None
    structure_tokens: int = 4
    texture_tokens: int = 8
    emotion_token: bool = False
    texture_share: float = 1.0
    expert_size: int = 256
    structure_token_id: int | None = None
    texture_token_id: int | None = None
    motion_token_id: int | None = None
    action_unit_name_ids: dict | None = None
    label_conventions: list[str] | tuple[str, ...] = ()
    loss_weights: dict | None = None
    action_unit_focus: float = 1.0
    appearance_swap: float = 0.5
    expert_dropout: float = 0.1
    emotion_temperature: float = 1.0
    action_unit_temperature: float = 1.0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        # Every checkpoint needs these two fields to load its own code, so the caller cannot change them.
        kwargs["auto_map"] = dict(AUTO_MAP)
        kwargs["custom_pipelines"] = {task: dict(entry) for task, entry in CUSTOM_PIPELINES.items()}
        super().__post_init__(**kwargs)
        self.experts = list(self.experts)
        self.action_units, self.emotion_labels = list(self.action_units), list(self.emotion_labels)
        self.coarse_emotion_of = dict(self.coarse_emotion_of or {})
        self.action_unit_regions = dict(self.action_unit_regions or {})
        self.action_unit_name_ids = dict(self.action_unit_name_ids or {})
        self.label_conventions = list(self.label_conventions)
        self.loss_weights = {**LOSS_WEIGHTS, **(self.loss_weights or {})}
        if self.image_size is None:
            size = self.structure_config.image_size
            self.image_size = size if isinstance(size, int) else size[0]
        if "structure" not in self.experts:
            self.structure_tokens = 0
        if "texture" not in self.experts:
            self.texture_tokens = 0
        self.tie_word_embeddings = bool(self.tie_word_embeddings or self.text_config.tie_word_embeddings)

    @property
    def motion_tokens(self) -> int:
        """Language tokens per clip that need the motion expert."""
        return len(self.action_units) + self.emotion_token

    def validate_architecture(self):
        """Raises `ValueError` naming the field that contradicts another."""
        unknown = sorted(set(self.experts) - set(EXPERTS))
        if unknown or "motion" not in self.experts:
            raise ValueError(
                f"`experts` is {list(self.experts)}; expected motion, and optionally {', '.join(EXPERTS[:-1])}."
            )
        for name in ("action_units", "emotion_labels", "label_conventions"):
            values = list(getattr(self, name))
            if len(set(values)) != len(values):
                raise ValueError(f"`{name}` contains a value twice: {values}.")
        for code in self.action_units:
            if not _CODE.fullmatch(code):
                raise ValueError(f"`action_units` contains {code!r}; expected FACS codes such as AU12, AD29 or M58.")
        for name in ("action_unit_regions", "action_unit_name_ids", "coarse_emotion_of"):
            known = self.emotion_labels if name == "coarse_emotion_of" else self.action_units
            unknown = sorted(set(getattr(self, name) or {}) - set(known))
            if unknown:
                raise ValueError(f"`{name}` contains {unknown[0]!r}, which is not one of {list(known)}.")
        for emotion, coarse in (self.coarse_emotion_of or {}).items():
            if coarse not in COARSE_EMOTIONS:
                raise ValueError(
                    f"`coarse_emotion_of` maps {emotion} to {coarse!r}; expected one of {', '.join(COARSE_EMOTIONS)}."
                )
        for term, weight in (self.loss_weights or {}).items():
            if term not in LOSS_WEIGHTS:
                raise ValueError(f"`loss_weights` has no term {term!r}; the terms are {', '.join(LOSS_WEIGHTS)}.")
            if weight < 0:
                raise ValueError(f"`loss_weights` sets {term} to {weight}; expected at least 0.")
        for name in ("appearance_swap", "expert_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected a share from 0 to 1.")
        if not 0 < self.texture_share <= 1:
            raise ValueError(f"`texture_share` is {self.texture_share}; expected a share above 0, up to 1.")
        if self.texture_share < 1 and self.texture_config.model_type != "videomae":
            raise ValueError(
                f"`texture_share` is {self.texture_share}, but a backbone of type {self.texture_config.model_type!r} "
                "always reads every patch. Use VideoMAE, or set `texture_share` to 1."
            )
        for name in ("emotion_temperature", "action_unit_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected a positive number.")
        if self.action_unit_focus < 0:
            raise ValueError(f"`action_unit_focus` is {self.action_unit_focus}; expected at least 0.")


__all__ = ["DeftConfig", "DeftMotionConfig"]
