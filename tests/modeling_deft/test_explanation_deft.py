import pytest
import torch


def test_explain_shows_what_the_answer_rests_on(model, clips):
    with torch.no_grad():
        explained = model.explain(**clips)
        whole = model.model(**clips)
        lone = model.explain(flow_values_videos=clips["flow_values_videos"])
        without = model.model(**clips, silenced_experts=("motion",))
    torch.testing.assert_close(explained.au_maps.sum((2, 3, 4)), torch.ones(explained.au_maps.shape[:2]))
    best = whole.emotion_logits.argmax(-1)
    rows = torch.arange(len(best))
    fall = whole.emotion_logits.softmax(-1)[rows, best] - without.emotion_logits.softmax(-1)[rows, best]
    torch.testing.assert_close(explained.emotion_effects[:, 2], fall)
    assert explained.answer_effects is None
    # Nothing is left without the only expert, and the others had no part.
    assert lone.emotion_effects[:, 2].isnan().all()
    assert (lone.emotion_effects[:, :2] == 0).all()


def test_explain_weighs_the_words_of_an_answer(model, processor, clips):
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Explain."}]}]
    prompt = processor.tokenizer(processor.render_prompt(message, clips), add_special_tokens=False)["input_ids"]
    answer = processor.tokenizer("Class: anger", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([prompt + answer] * 3)
    labels = torch.tensor([[-100] * len(prompt) + answer] * 3)
    with torch.no_grad():
        explained = model.explain(**clips, input_ids=ids, labels=labels)
        losses = [
            model(input_ids=ids, labels=labels, **clips, silenced_experts=silenced).language_loss
            for silenced in ((), ("texture",))
        ]
    torch.testing.assert_close(explained.answer_effects[:, 1].mean(), losses[1] - losses[0], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"pixel_values_videos": c["pixel_values_videos"]}, "explain.* needs flow_values_videos"),
        (lambda c: c | {"input_ids": torch.ones(3, 4, dtype=torch.long)}, "input_ids and labels together"),
    ],
)
def test_explain_asks_for_what_it_needs(model, clips, change, message):
    with pytest.raises(ValueError, match=message):
        model.explain(**change(dict(clips)))
