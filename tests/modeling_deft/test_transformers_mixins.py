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
    return importlib.import_module(f"transformers_suites.{name}")


common = load_suite("test_modeling_common")
NOT_APPLICABLE = {
    "test_bc_cache_name_forward": "DEFT takes both names of the cache without a warning, on every supported release",
    "test_generation_tester_mixin_inheritance": "the generation suite is not in the source distribution",
    "test_get_video_features_attentions": "DEFT returns its own `au_attentions`; the layers' attention is fused",
}
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


class TestDeftModel(common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (DeftModel, DeftForConditionalGeneration)
    _is_composite = True
    skip_test_video_features_output_shape = True

    def setUp(self):
        self.model_tester = DeftModelTester(self)
        if reason := NOT_APPLICABLE.get(self._testMethodName):
            self.skipTest(reason)
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
        tester = load_suite("test_configuration_common").ConfigTester(
            self, config_class=DeftConfig, has_text_modality=False, common_properties=["image_size", "expert_size"]
        )
        tester.run_common_tests()
