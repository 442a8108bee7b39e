from deft_llm.processing.action_units import get_action_unit
from deft_llm.processing.emotion_prototypes import CONVENTIONS, emotion_of, prototypes_of, sets_of


def test_a_convention_has_its_own_prototypes_or_those_of_facs():
    assert prototypes_of("synthetic") == ("the convention of synthetic", CONVENTIONS["synthetic"])
    name, prototypes = prototypes_of("casme2")
    assert name == "the prototypes of FACS"
    assert prototypes["happiness"] == (("AU6",), ("AU12",))
    assert {"happiness", "sadness", "surprise", "fear", "anger", "disgust", "contempt"} == set(prototypes)


def test_every_prototype_has_known_units():
    for convention in (*CONVENTIONS, ""):
        for sets in prototypes_of(convention)[1].values():
            assert all(get_action_unit(code).code == code for codes in sets for code in codes)


def test_a_coarse_class_is_possible_by_the_sets_of_its_emotions():
    assert sets_of("sadness", "synthetic") == CONVENTIONS["synthetic"]["sadness"]
    assert sets_of("surprise", "synthetic") == CONVENTIONS["synthetic"]["surprise"]
    assert set(sets_of("negative", "synthetic")) == {
        codes for name in ("sadness", "disgust", "anger") for codes in CONVENTIONS["synthetic"][name]
    }
    assert sets_of("others", "synthetic") == ()


def test_a_set_of_units_is_read_as_the_emotion_with_the_largest_prototype():
    for emotion, sets in CONVENTIONS["synthetic"].items():
        assert all(emotion_of(codes, "synthetic") == emotion for codes in sets)
    assert emotion_of(("AU12", "AU17"), "synthetic") == "happiness"
    assert emotion_of(("AU4", "AU9", "AU12"), "synthetic") == "disgust"
    assert emotion_of(("AU4", "AU12"), "synthetic") is None  # two prototypes of one unit
    assert emotion_of(("AU6", "AU17"), "synthetic") is None  # no prototype
