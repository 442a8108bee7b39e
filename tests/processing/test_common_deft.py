"""What cannot be imported has to be repeated; here the copies are compared."""

import inspect

import pytest

from deft_llm.hub_datasets.build.settings import BuildSettings
from deft_llm.hub_datasets.synthetic.dataset import build
from deft_llm.modeling_deft import DeftConfig, experts_deft, modeling_deft
from deft_llm.modeling_deft.configuration_deft import DeftMotionConfig
from deft_llm.processing import DeftProcessor, DeftVideoProcessor
from deft_llm.processing.action_units import SIDES
from deft_llm.processing.common_deft import (
    EXPERT_TITLES,
    EXPERTS,
    FLOW_SIZE,
    NUM_FRAMES,
    SIDE_LABELS,
    STRUCTURE_TOKENS,
    TEXTURE_TOKENS,
)
from deft_llm.training.arguments import ModelArguments


def default(function, name):
    return inspect.signature(function).parameters[name].default


def test_the_model_has_the_same_experts_and_sides():
    assert modeling_deft.EXPERTS == EXPERTS == tuple(EXPERT_TITLES)
    assert experts_deft.SIDES == SIDE_LABELS
    assert set(SIDE_LABELS) == {"both", *SIDES}


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("num_frames", NUM_FRAMES, DeftVideoProcessor.num_frames),
        ("num_frames", NUM_FRAMES, BuildSettings.num_frames),
        ("num_frames", NUM_FRAMES, default(build, "num_frames")),
        ("num_frames", NUM_FRAMES, ModelArguments.num_frames),
        ("flow_size", FLOW_SIZE, DeftVideoProcessor.flow_size),
        ("flow_size", FLOW_SIZE, DeftMotionConfig.flow_size),
        ("structure_tokens", STRUCTURE_TOKENS, DeftConfig.structure_tokens),
        ("structure_tokens", STRUCTURE_TOKENS, default(DeftProcessor, "structure_tokens")),
        ("structure_tokens", STRUCTURE_TOKENS, ModelArguments.structure_tokens),
        ("texture_tokens", TEXTURE_TOKENS, DeftConfig.texture_tokens),
        ("texture_tokens", TEXTURE_TOKENS, default(DeftProcessor, "texture_tokens")),
        ("texture_tokens", TEXTURE_TOKENS, ModelArguments.texture_tokens),
    ],
)
def test_every_default_is_the_same(name, value, found):
    assert found == value, name


def test_the_prompt_names_the_experts_in_their_order(processor, clips):
    text = processor.replace_video_token(clips, 0)
    places = [text.index(f"{EXPERT_TITLES[name]}: ") for name in EXPERTS]
    assert places == sorted(places)
