"""What each expert is told, and what it cannot know."""

import pytest
import torch

from deft_llm.modeling_deft import DeftConfig
from deft_llm.modeling_deft.experts_deft import GatedFusion, MotionExpert, TextureExpert, residual_changes
from deft_llm.processing.action_units import action_unit_ellipses


def textured(size: int = 48) -> torch.Tensor:
    """(3, size, size) smooth random picture."""
    noise = torch.randn(1, 3, size // 6, size // 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (size, size), mode="bicubic", align_corners=True)[0]


def test_light_and_a_moving_head_leave_no_trace_in_the_texture():
    face = textured()
    brighter = 1.1 * face + 0.2
    moved = torch.nn.functional.grid_sample(
        face[None],
        torch.nn.functional.affine_grid(
            torch.tensor([[[1.005, 0.01, 0.008], [-0.01, 1.005, -0.006]]]), (1, 3, 48, 48), align_corners=False
        ),
        padding_mode="border",
        align_corners=False,
    )[0]
    wrinkled = face.clone()
    wrinkled[:, 20:23, 18:30] -= 0.4
    changes = residual_changes(torch.stack([face, brighter, moved, wrinkled])[None])[0]
    plain = [(frame - face).norm() for frame in (brighter, moved, wrinkled)]
    light, head, wrinkle = (change.norm() for change in changes[1:])
    assert not changes[0].any()
    assert light < 0.02 * plain[0]
    assert head < 0.25 * plain[1]
    assert wrinkle > 0.8 * plain[2]


def test_mixed_precision_takes_the_light_out_as_well():
    face = textured()
    frames = torch.stack([face, 1.1 * face + 0.2, 1.05 * face])[None]
    with torch.autocast("cpu", torch.bfloat16):
        assert residual_changes(frames).abs().max() < 1e-5


def test_a_still_clip_without_any_gradient_stays_zero():
    assert not residual_changes(torch.full((1, 3, 3, 16, 16), 0.7)).any()


@pytest.mark.parametrize("mean_pooling", [True, False])  # False: the backbone ends with a norm
def test_the_places_that_change_most_are_read_and_no_others(model, clips, mean_pooling):
    values = {**model.config.to_dict(), "texture_share": 0.25}
    values["texture_config"]["use_mean_pooling"] = mean_pooling
    torch.manual_seed(0)
    expert = TextureExpert(DeftConfig.from_dict(values)).eval()
    backbone = expert.backbone.config
    size, grid = backbone.patch_size, backbone.image_size // backbone.patch_size
    assert grid == 4
    difference = 0.05 * clips["pixel_values_videos"][:2]
    places = torch.tensor([[0, 5, 6, 15], [1, 2, 3, 9]])  # four of sixteen, others in each clip
    for clip, chosen in enumerate(places):
        for place in chosen:
            row, column = size * (place // grid), size * (place % grid)
            difference[clip, 3:6, :, row : row + size, column : column + size] += 1
    with torch.no_grad():
        states = expert._read_moving(difference)
        # What VideoMAE itself makes of a mask.
        still = torch.ones(2, grid * grid, dtype=torch.bool).scatter(1, places, False)
        masked = still.repeat(1, backbone.num_frames // backbone.tubelet_size)
        expected = expert.backbone(difference, bool_masked_pos=masked).last_hidden_state
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)
        assert states.shape[1] == masked.shape[1] // 4
        # Elsewhere nothing matters as long as it is less.
        elsewhere = still.view(2, 1, 1, grid, grid).repeat_interleave(size, -1).repeat_interleave(size, -2)
        torch.testing.assert_close(expert._read_moving(difference * (1 - 0.5 * elsewhere.float())), states)


def test_the_whole_crop_is_read_unless_told_otherwise(model, clips):
    expert, pixels = model.model.recognition.texture_expert, clips["pixel_values_videos"]
    assert model.config.texture_share == 1
    with torch.no_grad():
        states = expert.backbone(residual_changes(pixels)).last_hidden_state
        torch.testing.assert_close(expert(pixels).tokens, expert.resampler(states))


def test_units_report_the_motion_where_they_looked(model):
    expert = model.model.recognition.motion_expert
    grid = model.config.motion_config.flow_size // expert.patch_size
    motion = torch.zeros(1, 2, 3, expert.patch_size * grid, expert.patch_size * grid)
    motion[..., : motion.shape[-1] // 2] = torch.tensor([0.3, -0.4, 0.5]).view(3, 1, 1)  # the person's right
    weights = torch.full((1, 1, 2 * grid * grid), 1 / (2 * grid * grid))
    values = expert.attended_motion(weights, motion)[0, 0]
    torch.testing.assert_close(values[:6], torch.tensor([0.3, -0.4, 0.5, 0, 0, 0]), atol=5e-3, rtol=0)
    assert values[6] > 10
    assert expert.attended_motion(weights, motion.flip(-1))[0, 0, 6] < -10
    assert expert.attended_motion(weights, torch.ones_like(motion))[0, 0, 6].abs() < 1e-3


def test_the_token_of_an_absent_unit_says_only_that(model, clips):
    expert = model.model.recognition.motion_expert
    bias = expert.au_bias.detach().clone()
    with torch.no_grad():
        expert.au_bias.fill_(-60.0)
        absent = expert(clips["flow_values_videos"])
        expert.au_bias.copy_(bias)
        usual = expert(clips["flow_values_videos"])
    assert (absent.tokens - absent.tokens[:1]).abs().max() < 1e-6
    assert (usual.tokens - usual.tokens[:1]).abs().max() > 1e-4


def test_a_token_holds_a_units_side_strength_and_distance_and_no_more(model, clips):
    """Seven numbers: 3 for the side, 1 each for presence and strength, 2 for how far the halves of the face moved."""
    expert = model.model.recognition.motion_expert
    shape = (200, *clips["flow_values_videos"].shape[1:])
    flow = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = expert(flow).tokens
    for unit in tokens.transpose(0, 1):
        values = torch.linalg.svdvals((unit - unit.mean(0)).double())
        assert values[7] < 1e-4 * values[0]
        assert values[3] > 1e-3 * values[0]


def logit_changes(model, regions: dict[str, list[list[float]]], reach: int | None, patch_size: int) -> torch.Tensor:
    """(units,) how much the logits of a random motion expert change without the motion in the face's lowest rows."""
    values = model.config.to_dict() | {"action_unit_name_ids": {}, "action_unit_regions": regions}
    # A unit without a region comes last.
    values["action_units"] = [*regions, "AU58"]
    motion = {"flow_size": 32, "patch_size": patch_size, "num_hidden_layers": 2, "attention_reach": reach}
    values["motion_config"] |= motion
    torch.manual_seed(0)
    expert = MotionExpert(DeftConfig.from_dict(values)).eval()
    for parameter in (expert.queries, expert.au_weight, expert.patch_positions, expert.frame_positions):
        torch.nn.init.normal_(parameter)
    before = torch.randn(1, 3, 2, 32, 32)
    after = before.clone()
    after[..., 26:, :] = 0
    with torch.no_grad():
        return (expert(before).au_logits - expert(after).au_logits)[0].abs()


@pytest.mark.parametrize("reach", [0, 1, None])
def test_with_a_reach_distant_motion_does_not_change_a_unit(model, reach):
    # Brows at the top, mouth corners at the bottom.
    regions = {"AU1": [[0.5, 0.15, 0.2, 0.05]], "AU15": [[0.5, 0.85, 0.2, 0.05]]}
    brows, *others = logit_changes(model, regions, reach, patch_size=2)
    assert min(others) > 1e-4
    assert brows > 1e-4 if reach is None else brows < 1e-6


@pytest.mark.parametrize("reach", [0, 1])
def test_with_no_reach_at_all_the_chin_does_not_change_the_nose(model, reach):
    regions = {code: [*map(list, action_unit_ellipses(code))] for code in ("AU9", "AU17")}
    # The grid of `recipes/smollm2-135m-lora.yaml`: a patch is an eighth of the face. There, AU9 is also compared with
    # AU15, whose patches touch those of the nose and of the chin.
    nose, chin, _ = logit_changes(model, regions, reach, patch_size=4)
    assert chin > 1e-4
    assert nose < 1e-6 if reach == 0 else nose > 1e-4


def test_training_swaps_structure_only_and_never_drops_motion(model, clips):
    config, inputs = model.config, {name: value.repeat(8, 1, 1, 1, 1) for name, value in clips.items()}
    swap, dropout = config.appearance_swap, config.expert_dropout
    model.train()
    try:
        with torch.no_grad():
            config.appearance_swap, config.expert_dropout = 0.0, 0.0
            plain = model.get_video_features(**inputs, return_dict=True)
            torch.manual_seed(0)
            config.appearance_swap = 1.0
            swapped = model.get_video_features(**inputs, return_dict=True)
            config.appearance_swap, config.expert_dropout = 0.0, 0.6
            dropped = model.get_video_features(**inputs, return_dict=True)
    finally:
        config.appearance_swap, config.expert_dropout = swap, dropout
        model.eval()
    assert (swapped.expert_tokens["structure"] - plain.expert_tokens["structure"]).abs().max() > 1e-4
    # A swap is a permutation: every structure is still somebody's.
    distances = torch.cdist(swapped.expert_tokens["structure"].flatten(1), plain.expert_tokens["structure"].flatten(1))
    assert distances.min(1).values.max() < 1e-5
    torch.testing.assert_close(swapped.expert_tokens["texture"], plain.expert_tokens["texture"])
    # The last token is the emotion's, which is judged from all experts.
    motions = [found.expert_tokens["motion"][:, :-1] for found in (plain, swapped, dropped)]
    torch.testing.assert_close(motions[1], motions[0])
    torch.testing.assert_close(motions[2], motions[0])
    silent = (dropped.expert_tokens["structure"] == 0).flatten(1).all(1)
    assert 4 < silent.sum() < 24
    assert torch.equal(silent, dropped.expert_gates[:, 0] == 0)
    torch.testing.assert_close(dropped.expert_gates.sum(-1), torch.ones(24))


def test_the_convention_changes_the_class_and_not_the_evidence(model):
    """Two conventions that call the same movement by opposite names are both learned by one head."""
    from deft_llm.modeling_deft import DeftConfig

    values = model.config.to_dict() | {"label_conventions": ["first", "second"], "coarse_emotion_of": {}}
    values["emotion_labels"] = ["anger", "disgust"]
    torch.manual_seed(0)
    head = GatedFusion(DeftConfig(**values))
    generator = torch.Generator().manual_seed(0)
    movement = torch.randint(2, (256,), generator=generator)
    direction = torch.randn(model.config.expert_size, generator=generator)
    pooled = (
        torch.randn(256, model.config.expert_size, generator=generator) * 0.5 + (2 * movement[:, None] - 1) * direction
    )
    convention = torch.randint(2, (256,), generator=generator)
    target = movement ^ convention
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(150):
        logits, _ = head([None, None, pooled], convention_ids=convention)
        loss = torch.nn.functional.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        named, gates = head([None, None, pooled], convention_ids=convention)
        other, other_gates = head([None, None, pooled], convention_ids=1 - convention)
        unknown, _ = head([None, None, pooled], convention_ids=torch.full((256,), -100))
        unnamed, _ = head([None, None, pooled])
    assert (named.argmax(-1) == target).float().mean() > 0.97
    assert (other.argmax(-1) == 1 - target).float().mean() > 0.97
    assert torch.equal(gates, other_gates)
    torch.testing.assert_close(unknown, unnamed)
