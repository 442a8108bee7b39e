from deft_llm.processing.action_units import get_action_unit
from deft_llm.processing.emotion_prototypes import CONVENTIONS, prototypes_of


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
