from deft_llm.training.stages import STAGES, StageArguments


def test_everything_is_trained_unless_a_stage_is_named():
    arguments = StageArguments()
    assert arguments.stage == next(iter(STAGES)) == "all"
    assert arguments.expert_learning_rate is None
    for stage in STAGES:
        assert stage in StageArguments.__dataclass_fields__["stage"].metadata["help"]
