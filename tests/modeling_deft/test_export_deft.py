import pytest
import torch

from deft_llm.modeling_deft import export_deft
from deft_llm.modeling_deft.export_deft import OUTPUTS, export_recognition
from tests.modeling_deft.small_models import FRAMES, OTHERS, small_model
from tests.modeling_deft.small_models import clips as small_clips


@pytest.mark.parametrize("training", [True, False])
def test_an_export_that_fails_leaves_no_file_and_the_model_as_it_was(model, tmp_path, monkeypatch, training):
    path = tmp_path / "deft.onnx"

    def broken(module, inputs, target, **arguments):
        assert not module.model.training
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(export_deft.torch.onnx, "export", broken)
    before = model.training
    model.model.train(training)
    try:
        with pytest.raises(OSError, match="no space left"):
            export_recognition(model.model, path, num_frames=8)
        assert model.model.training is training
    finally:
        model.train(before)
    assert list(tmp_path.iterdir()) == []


def test_what_is_exported_is_recognition(model, clips):
    outputs = export_deft._Recognition(model.model.recognition)(**clips)
    with torch.no_grad():
        expected = model.model(**clips)
    for name, value in zip(export_deft.OUTPUTS, outputs, strict=True):
        torch.testing.assert_close(value, expected[name])


# The export has the experts and no language model, and takes half a minute. `tests/test_client_calls.py` asks the same
# of the pair of backbones that differs most from this one, DINOv2 and VideoMAE.
def test_onnx_says_what_the_model_says(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    motion = {**OTHERS["motion_config"], "attention_reach": 1}
    model = small_model("gemma3-siglip-videomae", seed=3, motion_config=motion, emotion_token=True)
    export_recognition(model.model, tmp_path / "deft.onnx", num_frames=FRAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["deft.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "deft.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        inputs = small_clips(count)
        with torch.no_grad():
            expected = model.model(**inputs)
        found = session.run(list(OUTPUTS), {name: value.numpy() for name, value in inputs.items()})
        for name, value in zip(OUTPUTS, found, strict=True):
            torch.testing.assert_close(torch.from_numpy(value), expected[name], atol=1e-4, rtol=1e-3)
