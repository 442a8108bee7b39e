import pytest
import torch

from deft_llm.modeling_deft import export_deft
from deft_llm.modeling_deft.export_deft import export_recognition


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
    outputs = export_deft._Recognition(model.model)(**clips)
    with torch.no_grad():
        expected = model.model(**clips)
    for name, value in zip(export_deft.OUTPUTS, outputs, strict=True):
        torch.testing.assert_close(value, expected[name])
