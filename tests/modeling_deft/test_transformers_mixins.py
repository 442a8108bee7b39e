"""transformers' own test suites, run on DEFT.

Its wheel holds no tests, so `make test-range` unpacks those of the source distribution into
`build/transformers-tests/VERSION`; without that folder these tests are skipped. Two of the files that the suites
import are not in the source distribution either (export and generation); `test_conformance.py` covers what they test.
"""

import importlib
import sys
import types
import unittest
from pathlib import Path
from unittest import mock

import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto

from deft_llm.modeling_deft import DeftConfig, DeftForConditionalGeneration, DeftModel
from deft_llm.processing import DeftProcessor, DeftVideoProcessor
from deft_llm.training.parts import train_tokenizer
from tests.modeling_deft.small_models import (
    MOTION,
    SMALL,
    STRUCTURE,
    TEXTURE,
    clips,
    padded,
    parts_of,
    prompt,
    targets,
)

SUITES = Path(__file__).parents[2] / "build" / "transformers-tests" / transformers.__version__
if not SUITES.is_dir():
    pytest.skip(f"{SUITES} does not exist; `make test-range` makes it", allow_module_level=True)


def load_suite(name: str) -> types.ModuleType:
    """A file of the folder, with empty mixins in place of the files that it lacks."""
    package = sys.modules.setdefault("transformers_suites", types.ModuleType("transformers_suites"))
    package.__path__ = [str(SUITES)]
    (SUITES / "__init__.py").touch()
    lacking = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}
    for file, mixin in lacking.items():
        module = types.ModuleType(f"transformers_suites.{file}")
        setattr(module, mixin, type(mixin, (), {}))
        sys.modules.setdefault(f"transformers_suites.{file.split('.')[0]}", types.ModuleType("package"))
        sys.modules.setdefault(module.__name__, module)
    configuration = types.ModuleType("transformers_suites.utils.test_configuration_utils")
    configuration.config_common_kwargs = {"return_dict": False, "output_hidden_states": True}
    sys.modules.setdefault("transformers_suites.utils", types.ModuleType("package"))
    sys.modules.setdefault(configuration.__name__, configuration)
    fetching = types.ModuleType("fetch_hub_objects_for_ci")
    fetching.url_to_local_path = lambda url: url
    sys.modules.setdefault(fetching.__name__, fetching)
    return importlib.import_module(f"transformers_suites.{name}")


common = load_suite("test_modeling_common")
videos, processors = load_suite("test_video_processing_common"), load_suite("test_processing_common")
FRAMES = "DEFT samples frames by onset, apex and offset, whatever their number"
IMAGES = "DEFT reads clips and no single images"
NOT_APPLICABLE = {
    # The model
    "test_bc_cache_name_forward": "DEFT takes both names of the cache without a warning, on every supported release",
    "test_generation_tester_mixin_inheritance": "the generation suite is not in the source distribution",
    "test_get_video_features_attentions": "DEFT returns its own `au_attentions`; the layers' attention is fused",
    # The video processor
    "test_call_numpy_4_channels": "there is no `do_convert_rgb`: alpha is always dropped",
    "test_call_sample_frames": FRAMES,
    "test_valid_kwargs_set": "DEFT's keyword arguments are a subclass of `VideosKwargs`",
    "test_video_processor_from_dict_with_kwargs": "the crop is square and has one `size`, and there is no `crop_size`",
    "test_video_processor_save_load_with_autovideoprocessor": "AutoVideoProcessor needs torchvision, DEFT does not",
    # The processor
    "test_apply_chat_template_video_frame_sampling": FRAMES,
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": IMAGES,
    "test_get_num_multimodal_tokens_matches_processor_call": IMAGES,
    "test_get_num_multimodal_tokens_matches_processor_call_video": FRAMES,
    "test_if_input_has_mismatching_tokens_and_mm_data": "the error is DEFT's own (test_processing_deft.py)",
    "test_model_input_names": IMAGES,
    "test_processor_from_and_save_pretrained": "saving adds `auto_map`, which custom code needs",
    "test_processor_from_and_save_pretrained_as_nested_dict": "saving adds `auto_map`, which custom code needs",
}


class Suite(unittest.TestCase):
    def setUp(self):
        super().setUp()
        if reason := NOT_APPLICABLE.get(self._testMethodName):
            self.skipTest(reason)


# The suites ask these lists what a class of transformers is; remote code is in none of them.
KINDS = {
    "MODEL_MAPPING_NAMES": "DeftModel",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": "DeftForConditionalGeneration",
}
PLACEHOLDERS = {STRUCTURE: 3, TEXTURE: 4, MOTION: 5}  # low: some tests shrink the vocabulary


class DeftModelTester:
    """What the suites ask of the tester of a model: a small config, and inputs for it."""

    batch_size, seq_length, is_training = 2, 15, True
    hidden_size, num_hidden_layers, num_attention_heads = (
        SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def get_config(self) -> DeftConfig:
        parts = parts_of("llama-vit-vit")
        configs = {f"{name}_config": parts.pop(name) for name in ("text", "structure", "texture")}
        ids = {
            f"{name}_token_id": PLACEHOLDERS[parts[f"{name}_token_id"]] for name in ("structure", "texture", "motion")
        }
        return DeftConfig(**configs, **{**parts, **ids, "expert_dropout": 0.0, "appearance_swap": 0.0})

    def prepare_config_and_inputs_for_common(self) -> tuple[DeftConfig, dict[str, torch.Tensor]]:
        words = (7, 8, 9, 10, 11, 12)
        text = padded(prompt(*words), prompt(*words[::-1]))
        text["input_ids"][:, 0] = 6
        for token, low in PLACEHOLDERS.items():
            text["input_ids"][text["input_ids"] == token] = low
        return self.get_config(), {**text, **clips(self.batch_size)}


class TestDeftModel(common.ModelTesterMixin, Suite):
    all_model_classes = (DeftModel, DeftForConditionalGeneration)
    _is_composite = True
    skip_test_video_features_output_shape = True

    def setUp(self):
        super().setUp()
        self.model_tester = DeftModelTester(self)
        for kind, name in KINDS.items():
            patch = mock.patch.dict(getattr(modeling_auto, kind), {"deft": name})
            patch.start()
            self.addCleanup(patch.stop)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is DeftForConditionalGeneration:
            experts = targets(inputs)  # the heads learn from labels of their own
            inputs.update({name: value for name, value in experts.items() if name.endswith("_labels")})
        return inputs

    def _video_features_get_expected_num_hidden_states(self, model_tester=None):
        return self.model_tester.get_config().motion_config.num_hidden_layers + 1


class TestDeftConfig(unittest.TestCase):
    def test_config(self):
        self.model_tester = DeftModelTester(self)
        tester = load_suite("test_configuration_common").ConfigTester(
            self, config_class=DeftConfig, has_text_modality=False, common_properties=["image_size", "expert_size"]
        )
        tester.run_common_tests()


class DeftVideoProcessorTester:
    batch_size, num_frames = 2, 8

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return videos.prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=3,
            min_resolution=30,
            max_resolution=60,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )

    def expected_output_video_shape(self, inputs):
        return 8, 3, 20, 20


class TestDeftVideoProcessor(videos.VideoProcessingTestMixin, Suite):
    fast_video_processing_class = DeftVideoProcessor
    test_cast_dtype = True
    video_processor_dict = {"size": {"height": 20, "width": 20}, "num_frames": 8}

    def setUp(self):
        Suite.setUp(self)
        super().setUp()
        self.video_processor_tester = DeftVideoProcessorTester()


class TestDeftProcessor(processors.ProcessorTesterMixin, Suite):
    processor_class = DeftProcessor

    @pytest.fixture(autouse=True)
    def _clips(self, brow_video, monkeypatch):
        """In place of the suite's videos, which are on the Hub."""
        monkeypatch.setitem(processors.MODALITY_INPUT_DATA, "videos", [str(brow_video)] * 2)

    def get_component(self, attribute, use_tiny_ckpt=True, **kwargs):
        # The stock version goes through the auto classes, which ask whether custom code may be run.
        component = getattr(self.get_processor(), attribute)
        return type(component).from_pretrained(self.tmpdirname, **kwargs)

    @classmethod
    def _setup_video_processor(cls):
        return DeftVideoProcessor(size=32)

    @classmethod
    def _setup_tokenizer(cls):
        text = "lower newer upper older longer string Describe this in detail please what is shown"
        return train_tokenizer([[{"messages": [{"content": [{"text": text}]}]}]], vocab_size=400)

    @staticmethod
    def prepare_processor_dict():
        return {"action_units": ["AU1", "AU4", "AU12"], "emotion_labels": ["anger", "happiness"]}
