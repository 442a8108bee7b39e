"""What the tests of training share: decoded clips and the settings of a very short run."""

import os
import tempfile

import pytest
from trl import SFTConfig

from deft_llm.training.data import prepare

# trackio reads it when it is imported.
os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp(prefix="trackio-"))


@pytest.fixture(scope="session")
def prepared(dataset, processor):
    return prepare(dataset, processor, workers=1)


@pytest.fixture(scope="session")
def settings():
    """SFTConfig of a run on the CPU, as `train_sft.make_run` would leave it."""

    def make(out, **changes) -> SFTConfig:
        values = {
            "output_dir": str(out),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "bf16": False,
            "gradient_checkpointing": False,
            "max_length": None,
            "remove_unused_columns": False,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return SFTConfig(**(values | changes))

    return make
