"""transformers' own Trainer, which knows nothing of DEFT."""

import copy

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.modeling_deft.small_models import clips, padded, prompt, small_model, targets

ANSWERS = ([20], [21, 22, 23, 24, 25, 26, 27], [30, 31], [40, 41, 42, 43])  # of different lengths


def rows() -> list[dict[str, torch.Tensor]]:
    """Four prompts with a clip, an answer and the experts' labels each."""
    videos = clips(4)
    inputs = {**padded(*(prompt(*answer) for answer in ANSWERS)), **videos}
    experts = targets({name: value[:2] for name, value in inputs.items()})
    experts = {name: torch.cat([value, value]) for name, value in experts.items() if name.endswith("_labels")}
    found = []
    for index, answer in enumerate(ANSWERS):
        ids = prompt(*answer)
        labels = [-100] * (len(ids) - len(answer)) + answer
        row = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
        row |= {name: value[index] for name, value in (videos | experts).items()}
        found.append(row)
    return found


def collate(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    length = max(len(row["input_ids"]) for row in batch)
    together = {}
    for name in batch[0]:
        values = [row[name] for row in batch]
        if name in ("input_ids", "labels"):
            fill = 0 if name == "input_ids" else -100
            values = [torch.nn.functional.pad(value, (length - len(value), 0), value=fill) for value in values]
        together[name] = torch.stack(values)
    together["attention_mask"] = torch.stack(
        [torch.arange(length) >= length - len(row["input_ids"]) for row in batch]
    ).long()
    return together


class Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def model():
    model = small_model("llama-vit-vit")
    model.config.update({"expert_dropout": 0.0, "appearance_swap": 0.0})
    return model


def trainer_of(model, folder, data, **options):
    options = {"max_grad_norm": 0.0, "max_steps": 1, "report_to": "none", "use_cpu": True, **options}
    arguments = TrainingArguments(output_dir=str(folder), **options)
    return Trainer(
        model=copy.deepcopy(model), args=arguments, data_collator=collate, train_dataset=data, eval_dataset=data
    )


def gradients(model, folder, **options):
    trainer, found = trainer_of(model, folder, rows(), **options), Gradients()
    trainer.add_callback(found)
    trainer.train()
    return found.found


def test_accumulated_gradients_are_those_of_the_whole_batch(model, tmp_path):
    whole = gradients(model, tmp_path / "whole", per_device_train_batch_size=4)
    accumulated = gradients(
        model, tmp_path / "accumulated", per_device_train_batch_size=1, gradient_accumulation_steps=4
    )
    assert whole.keys() == accumulated.keys()
    parts = ("language_model", "structure_expert", "texture_expert", "motion_expert", "emotion_head", "connectors")
    for part in parts:
        names = [name for name in whole if part in name]
        ratio = sum(accumulated[n].square().sum() for n in names) / sum(whole[n].square().sum() for n in names)
        assert ratio.sqrt() == pytest.approx(1.0, abs=1e-3), part
    for name, value in whole.items():
        torch.testing.assert_close(accumulated[name], value, atol=1e-6, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_the_terms_of_a_batch_add_up_from_its_parts(model):
    """The same without a Trainer, with `num_items_in_batch` passed by hand."""
    data = rows()
    items = sum(int((row["labels"][1:] != -100).sum()) for row in data)
    with torch.no_grad():
        whole = model(**collate(data), num_items_in_batch=items)
        parts = [model(**collate([row]), num_items_in_batch=torch.tensor(items)) for row in data]
    for term in model.config.loss_weights:
        total = sum(part[f"{term}_loss"] for part in parts)
        torch.testing.assert_close(total, whole[f"{term}_loss"], msg=lambda m, t=term: f"{t}: {m}")


@pytest.mark.parametrize("lacking", [(), ("emotion_labels", "au_labels", "au_side_labels", "au_intensity_labels")])
def test_eval_loss_is_reported(model, tmp_path, lacking):
    data = [{name: value for name, value in row.items() if name not in lacking} for row in rows()]
    trainer = trainer_of(model, tmp_path, data, per_device_eval_batch_size=4)
    assert trainer.label_names == ["labels"]
    loss = trainer.evaluate()["eval_loss"]
    batch = collate(data)
    items = int((batch["labels"][:, 1:] != -100).sum())
    with torch.no_grad():
        assert loss == pytest.approx(float(model(**batch, num_items_in_batch=items).loss), rel=1e-5)


def test_predictions_are_logits_and_what_the_heads_found(model, tmp_path):
    predictions = trainer_of(model, tmp_path, rows()[:1]).predict(rows()[:1]).predictions
    with torch.no_grad():
        outputs = model(**collate(rows()[:1]))
    assert predictions[0].shape == outputs.logits.shape
    assert any(
        torch.allclose(torch.as_tensor(value), outputs.au_logits, atol=1e-4)
        for value in predictions[1:]
        if torch.as_tensor(value).shape == outputs.au_logits.shape
    )
