"""Who may see rows and models, by whose recordings they come from."""

import pytest

from deft_llm.hub_datasets.sources.catalogue import SOURCES
from deft_llm.hub_datasets.sources.sharing_policy import (
    RENDERED,
    VISIBILITIES,
    LicenceNotAcceptedError,
    NotShareableError,
    RepositoryTooOpenError,
    StatementNeededError,
    check_accepted,
    check_may_share,
    check_repository,
    is_bound,
    licensed_sources,
    terms_of,
)
from deft_llm.hub_datasets.synthetic.dataset import CONVENTIONS

LICENSED = terms_of({"casme2": {"casme2/sub01"}})
OWN = terms_of({"mylab": {"mylab/p1"}})
FACES = terms_of({"synthetic": {"synthetic/0"}})
FREE = None


@pytest.mark.parametrize(
    ("what", "terms", "expected"),
    [
        ("rows", LICENSED, (NotShareableError, StatementNeededError, StatementNeededError)),
        ("rows", OWN, (StatementNeededError, StatementNeededError, FREE)),
        ("rows", FACES, (FREE, FREE, FREE)),
        ("rows", {**FACES, **OWN}, (StatementNeededError, StatementNeededError, FREE)),
        ("rows", {**OWN, **LICENSED}, (NotShareableError, StatementNeededError, StatementNeededError)),
        ("model", LICENSED, (StatementNeededError, StatementNeededError, FREE)),
        ("model", OWN, (StatementNeededError, StatementNeededError, FREE)),
        ("model", FACES, (FREE, FREE, FREE)),
        ("model", {}, (FREE, FREE, FREE)),
    ],
)
def test_the_policy(what, terms, expected):
    for visibility, error in zip(VISIBILITIES, expected, strict=True):
        for statement in (None, "", "  "):
            if error is FREE:
                check_may_share(what, "x", terms, visibility, statement)
            else:
                with pytest.raises(error):
                    check_may_share(what, "x", terms, visibility, statement)
        if error is NotShareableError:
            with pytest.raises(error, match="cannot go to a public repository"):
                check_may_share(what, "x", terms, visibility, "All authors have agreed.")
        else:
            check_may_share(what, "x", terms, visibility, "All authors have agreed.")


def test_errors_name_the_terms_and_what_to_do():
    with pytest.raises(StatementNeededError, match="--i-may-share REASON") as caught:
        check_may_share("rows", "build/x", LICENSED, "private", None)
    assert "CASME II" in str(caught.value)
    assert caught.value.terms == f"CASME II: {SOURCES['casme2'].licence.summary}"
    with pytest.raises(NotShareableError, match="assigned to USTC"):
        check_may_share("rows", "build/x", terms_of({"dfme": {"dfme/1"}}), "public", "we may")
    with pytest.raises(ValueError, match="secret"):
        check_may_share("rows", "build/x", FACES, "secret", None)


def test_participants_of_a_licensed_set_bring_its_licence():
    assert licensed_sources({"mylab"}, {"mylab/p1", "casme2/sub01"}) == ["casme2"]
    assert licensed_sources({"samm-long"}, {"samm/006"}) == ["samm-long"]
    assert licensed_sources({"mylab"}, {"mylab/p1"}) == []
    terms = terms_of({"mylab": {"mylab/p1", "casme2/sub01"}})["mylab"]
    assert (terms["kind"], terms["title"]) == ("licensed", "CASME II")


def test_somebodys_recordings_are_not_rendered_whatever_they_are_called():
    assert terms_of({name: set() for name in RENDERED}) == {
        name: {"title": f"rendered faces ({name})", "kind": "rendered", "terms": "Rendered; nobody's face."}
        for name in RENDERED
    }
    built = {"synthetic": {"title": "My laboratory"}}
    terms = terms_of({"synthetic": {"p/1"}}, built)
    assert terms["synthetic"]["kind"] == "own"
    assert terms["synthetic"]["title"] == "My laboratory"
    assert not is_bound(FACES)
    assert is_bound(terms)


def test_every_convention_of_rendered_faces_is_a_rendered_source():
    assert tuple(CONVENTIONS) == RENDERED
    assert not set(RENDERED) & set(SOURCES)


@pytest.mark.parametrize("asked", VISIBILITIES)
@pytest.mark.parametrize("found", VISIBILITIES)
def test_an_existing_repository_may_be_closer_and_not_more_open(asked, found):
    options = {"private": found == "private", "gated": "manual" if found == "gated" else False}
    check_repository("org/x", FACES, asked, **options)
    if VISIBILITIES.index(found) < VISIBILITIES.index(asked):
        with pytest.raises(RepositoryTooOpenError, match=f"org/x exists and is {found}, not {asked}"):
            check_repository("org/x", LICENSED, asked, **options)
    else:
        check_repository("org/x", LICENSED, asked, **options)


def test_licences_are_accepted_by_name():
    check_accepted(["mylab"], [])
    check_accepted(["dfme"], ["dfme"])
    with pytest.raises(LicenceNotAcceptedError, match="--accept-licence dfme"):
        check_accepted(["dfme", "mylab"], ["casme2"])
