import pytest

from deft_llm.hub_datasets.build.settings import BuildSettings


@pytest.mark.parametrize(
    "settings",
    [
        {"split": "loso"},
        {"shard_size": 0},
        {"crf": 52},
        {"test_share": 0.7},
        {"face_source": "haar"},
        {"rewriter_model": "chat"},
        {"rewriter": "http://localhost:1"},
        {"rewriter": "localhost:1", "rewriter_model": "chat"},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        BuildSettings(**settings)


def test_a_source_may_have_its_own_face_source():
    settings = BuildSettings(face_source="yunet", face_source_of={"samm": "cropped"})
    assert (settings.face_source_for("samm"), settings.face_source_for("casme2")) == ("cropped", "yunet")
    with pytest.raises(ValueError, match="haar"):
        BuildSettings(face_source_of={"samm": "haar"})
