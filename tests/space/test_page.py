"""The page in a real browser: by mouse at two widths, by keyboard alone, with an accessibility scan."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.space.conftest import serving

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install deft-llm[test]")

SIZES = {"desktop": (1360, 900), "phone": (390, 844)}


@pytest.fixture
def open_page(browser, server):
    """Opens the page at a width; fails on any error of the page and on any request to another host."""
    contexts, troubles = [], []

    def opened(size="desktop", scheme="light", url=server.url):
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((url, "data:", "blob:")) else troubles.append(f"asks {request.url}")
            ),
        )
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(url)
        page.get_by_role("button", name="Explain this clip").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def upload(page, path):
    page.locator("#deft-clip input[type=file]").set_input_files(str(path))
    page.locator("#deft-clip video").wait_for(state="attached")


def explain(page):
    page.get_by_role("button", name="Explain this clip").click()
    page.locator(".deft-verdict, .deft-problem").wait_for()


def shown_map(page):
    """Numbers of the attention maps that can be seen."""
    page.wait_for_timeout(300)  # the fade
    opacities = page.locator(".deft-map").evaluate_all("maps => maps.map(map => +getComputedStyle(map).opacity)")
    return [number for number, opacity in enumerate(opacities) if opacity > 0.5]


@pytest.mark.parametrize("size", SIZES)
def test_upload_result_action_unit_json(open_page, server, brow_video, processor, size):
    page = open_page(size)
    upload(page, brow_video)
    page.get_by_label("The picture is a face").check()
    explain(page)
    for name in ("The moment", "What moved", "Where each action unit was looked for", "In words"):
        assert page.get_by_role("heading", name=name).is_visible()
    assert page.locator(".deft-marktext").all_text_contents() == ["onset", "apex", "offset"]
    assert page.locator(".deft-strip li").count() == processor.video_processor.num_frames
    assert page.locator(".deft-strip .deft-key").count() == 3
    assert page.locator(".deft-film video").evaluate("film => film.readyState > 0 || film.error === null")
    terms = page.locator(".deft-words dt").all_inner_texts()
    assert terms == ["Class", "Evidence", "Rationale"]
    assert page.locator(".deft-table tr").count() == len(processor.emotion_labels)

    units = page.get_by_role("radio", name=re.compile("^AU"))
    assert units.count() == len(processor.action_units)
    assert shown_map(page) == [0]
    page.locator(".deft-unit").nth(2).click()
    assert units.nth(2).is_checked()
    assert shown_map(page) == [2]

    page.get_by_text("JSON", exact=True).click()
    report = json.loads(page.locator(".deft-json pre").inner_text())
    assert set(report["action_unit_scores"]) == set(processor.action_units)
    for name, start in (("JSON", b"{"), ("CSV", b"clip,interval,onset,"), ("MP4", b"")):
        with page.expect_download() as kept:
            page.get_by_role("link", name=name).click()
        content = Path(kept.value.path()).read_bytes()
        assert content.startswith(start)
        assert (content[4:8] == b"ftyp") == (name == "MP4")
    # Nothing sticks out of the window sideways.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # The clip is gone from the page as it is from the disk.
    page.locator("#deft-clip video").wait_for(state="detached")
    assert server.left_behind() == []


def test_by_keyboard_alone(open_page, brow_video):
    page = open_page()

    def tab_to(selector, most=60):
        for _ in range(most):
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(
            f"{selector} cannot be reached by Tab; the focus is on "
            f"{page.evaluate('document.activeElement.outerHTML.slice(0, 200)')}"
        )

    tab_to("#deft-clip button.upload-container")
    for attempt in range(12):  # the button is drawn a moment before it listens
        try:
            with page.expect_file_chooser(timeout=5_000) as chosen:
                page.keyboard.press("Enter")
            break
        except PlaywrightTimeoutError:
            assert attempt < 11, "Enter on the upload button opens no file chooser"
    chosen.value.set_files(str(brow_video))
    page.locator("#deft-clip video").wait_for(state="attached")
    tab_to("#deft-where input[value=crop]")
    page.keyboard.press("Space")
    assert page.get_by_label("The picture is a face").is_checked()
    tab_to("#deft-go")
    page.keyboard.press("Enter")
    page.locator(".deft-verdict").wait_for()
    tab_to(".deft-unit input")
    page.keyboard.press("ArrowDown")
    assert shown_map(page) == [1]
    tab_to(".deft-json summary")
    page.keyboard.press("Enter")
    assert page.locator(".deft-json pre").is_visible()
    tab_to("#deft-question :is(input, textarea)")
    page.keyboard.type("Is AU12 there?")
    page.keyboard.press("Enter")
    page.get_by_role("log").get_by_text("No, AU12 (lip corner puller) is not visible in the motion.").wait_for()


def test_questions_about_a_clip(open_page, bad_clips):
    page = open_page()
    assert page.locator("#deft-question").count() == 0 or not page.locator("#deft-question").is_visible()
    page.get_by_role("button", name="Face 1").click()
    page.locator(".deft-verdict").wait_for()
    for question, answer in (
        ("What would one expect of AU2?", "AU2 (outer brow raiser) would move the outer brow up."),
        ("Is <b>AU14</b> there?", "Motion in the image cannot show AU14 (dimpler)."),
    ):
        page.get_by_label("Your question").fill(question)
        page.get_by_role("button", name="Ask").click()
        page.get_by_role("log").get_by_text(answer).wait_for()
    assert page.get_by_role("log").locator("dd").count() == 2
    assert page.get_by_role("log").get_by_text("Is <b>AU14</b> there?").is_visible()
    page.get_by_label("Your question").fill("Is AU99 there?")
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("alert").get_by_text("AU99").wait_for()
    assert page.get_by_label("Your question").input_value() == "Is AU99 there?"
    assert serious(page) == []
    # Another clip starts another conversation, and there is none about a clip that could not be explained.
    page.get_by_role("button", name="Face 2").click()
    page.wait_for_function("document.querySelectorAll('.deft-turns dd').length === 0")
    upload(page, bad_clips["no face"])
    page.get_by_role("button", name="Explain this clip").click()
    page.locator(".deft-problem").wait_for()
    page.locator("#deft-question").wait_for(state="hidden")


def test_an_example_needs_one_click(open_page, server):
    page = open_page()
    page.get_by_role("button", name="Face 4").click()
    page.locator(".deft-verdict").wait_for()
    assert page.get_by_role("heading", name="No expression").is_visible()
    page.get_by_role("button", name="Face 1").click()
    page.get_by_role("heading", name="No expression").wait_for(state="detached")
    assert page.locator(".deft-plot").is_visible()
    assert server.left_behind() == []


def serious(page):
    found = axe.Axe().run(page).response["violations"]
    return [
        (item["id"], item["impact"], item["nodes"][0]["html"][:200])
        for item in found
        if item["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_the_scan_finds_nothing_serious(open_page, size, scheme, bad_clips):
    page = open_page(size, scheme)
    assert serious(page) == []
    page.get_by_role("button", name="Face 1").click()
    page.locator(".deft-verdict").wait_for()
    page.locator(".deft-json summary").click()
    page.wait_for_timeout(400)
    assert serious(page) == []
    upload(page, bad_clips["no face"])
    page.get_by_role("button", name="Explain this clip").click()
    page.locator(".deft-problem").wait_for()
    page.wait_for_timeout(400)
    assert serious(page) == []


# --- videos longer than a clip --------------------------------------------------------------------------------------


def show_timeline(page, path):
    upload(page, path)
    page.get_by_label("The picture is a face").check()
    page.get_by_role("button", name="Explain this clip").click()
    page.get_by_role("region", name="Timeline").wait_for()
    page.wait_for_function("document.querySelector('.deft-watched').getBoundingClientRect().top <= innerHeight / 2")


def choose(page, name, press=None):
    """Chooses an expression by its button, and waits for its explanation."""
    button = page.get_by_role("button", name=name)
    button.click() if press is None else press(button)
    page.locator(".deft-verdict .deft-kicker").get_by_text(name).wait_for()


def kept_files(page, place):
    """Name → content of the files behind the links of a part of the page."""
    found = {}
    for link in page.get_by_role("navigation", name=place, exact=True).get_by_role("link").all():
        with page.expect_download() as kept:
            link.click()
        found[kept.value.suggested_filename] = Path(kept.value.path()).read_bytes()
    return found


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_a_video_has_a_timeline_whose_expressions_are_explained(open_page, server, long_video, size, scheme):
    page = open_page(size, scheme)
    show_timeline(page, long_video)
    assert server.left_behind() == []
    assert page.get_by_role("heading", name="2 expressions in 20.0 s").is_visible()
    drawing = page.get_by_role(
        "img", name=re.compile("Timeline of 20.0 seconds, 2 expressions, .* cannot be measured")
    )
    assert drawing.is_visible()
    assert page.locator(".deft-lost li").all_inner_texts() == [
        "12.00 to 13.06 s: the face cannot be followed: it is hidden, blurred or gone"
    ]
    assert page.get_by_text("weaker expressions may be overlooked").is_visible()
    assert not page.get_by_label("Your question").is_visible()
    assert serious(page) == []
    files = kept_files(page, "Downloads of the timeline")
    assert set(files) == {"timeline.json", "timeline.csv"}
    rows = json.loads(files["timeline.json"])["intervals"]
    assert len(files["timeline.csv"].splitlines()) == 1 + len(rows) == 3

    first, second = (
        f"Expression {number}, {row['onset'] / 50:.2f} to {row['offset'] / 50:.2f} s"
        for number, row in enumerate(rows, start=1)
    )
    choose(page, second)
    assert page.get_by_role("button", name=second).get_attribute("aria-pressed") == "true"
    assert page.get_by_role("button", name=first).get_attribute("aria-pressed") == "false"
    page.wait_for_function("document.querySelector('.deft-verdict').getBoundingClientRect().top < innerHeight / 2")
    assert page.locator(".deft-marktext").all_text_contents() == ["onset", "apex", "offset"]
    page.get_by_label("Your question").fill("What would one expect of AU2?")
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("log").get_by_text("AU2 (outer brow raiser) would move the outer brow up.").wait_for()
    files = kept_files(page, "Downloads")
    assert set(files) == {"expression-2.json", "expression-2.csv", "expression-2.mp4"}
    assert json.loads(files["expression-2.json"])["key_frames"]["apex"] == rows[1]["apex"]
    page.wait_for_timeout(400)
    assert serious(page) == []

    choose(page, first, press=lambda button: (button.focus(), page.keyboard.press("Enter")))
    assert page.evaluate("document.activeElement.dataset.number") == "0"  # the focus stays where it was
    assert page.locator(".deft-turns dd").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    drawing.locator("[data-number='1']").first.click()
    page.locator(".deft-verdict .deft-kicker").get_by_text(second).wait_for()
    page.get_by_role("button", name="Face 1").click()
    page.get_by_role("region", name="Timeline").wait_for(state="detached")


def test_a_video_that_is_too_long_is_refused_before_it_is_measured(open_page, bad_clips):
    page = open_page()
    upload(page, bad_clips["long"])
    page.get_by_role("button", name="Explain this clip").click()
    page.get_by_role("alert").get_by_text("at most 120 seconds are allowed").wait_for()
    assert page.get_by_role("region", name="Timeline").count() == 0


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "dark"), ("phone", "light")])
def test_two_results_side_by_side(open_page, size, scheme):
    page = open_page(size, scheme)
    page.get_by_role("button", name="Face 1").click()
    page.locator(".deft-verdict").wait_for()
    page.get_by_role("button", name="Keep this result").click()
    page.get_by_role("status").get_by_text("Kept: face-1.").wait_for()
    page.get_by_role("button", name="Face 4").click()
    both = page.get_by_role("region", name="Two results side by side")
    both.wait_for()
    assert both.get_by_role("heading", level=3).all_inner_texts() == ["A: face-1", "B: face-4", "What differs"]
    assert both.locator(".deft-differences li").count() >= 1
    left, right = (both.get_by_role("article").nth(number).bounding_box() for number in (0, 1))
    beside = right["x"] >= left["x"] + left["width"]
    assert beside == (size == "desktop")
    assert beside or right["y"] >= left["y"] + left["height"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.get_by_role("heading", name="Ask about the two clips, A first").is_visible()
    page.get_by_label("Your question").fill("What would one expect of AU2?")
    page.get_by_role("button", name="Ask").click()
    page.locator(".deft-turns dd").wait_for()
    page.wait_for_timeout(400)
    assert serious(page) == []
    page.get_by_role("button", name="Let go").click()
    both.wait_for(state="detached")
    page.get_by_role("heading", name="Ask about this clip").wait_for()


def test_two_visitors_at_once_share_nothing(open_page, server, long_video, brow_video):
    """One looks at a video, and the other at a clip; both come back to their own."""
    one, other = open_page(), open_page("phone")
    show_timeline(one, long_video)
    name = one.locator(".deft-choice b").first.inner_text()
    choose(one, name)
    assert other.get_by_role("region", name="Timeline").count() == 0
    assert other.locator(".deft-verdict").count() == 0
    upload(other, brow_video)
    other.get_by_label("The picture is a face").check()
    other.get_by_role("button", name="Explain this clip").click()
    one.get_by_label("Your question").fill("Is AU12 there?")
    one.get_by_role("button", name="Ask").click()
    other.locator(".deft-verdict").wait_for()
    one.get_by_role("log").get_by_text("AU12").first.wait_for()
    assert other.locator(".deft-turns dd").count() == 0
    one.get_by_role("button", name="Keep this result").click()
    one.get_by_role("status").get_by_text("Kept: meeting").wait_for()
    other.get_by_role("button", name="Face 1").click()
    other.locator(".deft-verdict").wait_for()
    other.wait_for_timeout(400)
    assert other.get_by_role("region", name="Two results side by side").count() == 0
    choose(one, one.locator(".deft-choice b").nth(1).inner_text())
    one.get_by_role("region", name="Two results side by side").wait_for()
    assert server.left_behind() == []


PROBLEMS = {
    "text": "is not a video that can be read",
    "empty": "is empty",
    "long": "2 h 0 min long",
    "no face": "No face was found",
    "two faces": "2 faces were found",
}


def test_what_cannot_be_explained_is_said_in_a_sentence(open_page, bad_clips, brow_video):
    page = open_page()
    for kind, words in PROBLEMS.items():
        upload(page, bad_clips[kind])
        page.get_by_role("button", name="Explain this clip").click()
        page.get_by_role("alert").get_by_text(words).wait_for()
        page.locator("#deft-clip video").wait_for(state="detached")
    page.get_by_role("button", name="Explain this clip").click()
    page.get_by_role("alert").get_by_text("There is not a clip yet").wait_for()
    upload(page, brow_video)
    explain(page)
    page.locator(".deft-verdict").wait_for()


def test_a_name_of_a_file_is_no_markup(open_page, brow_video, tmp_path):
    path = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    path.write_bytes(brow_video.read_bytes())
    page = open_page()
    upload(page, path)
    explain(page)
    assert page.locator("img[src='x']").count() == 0


def test_a_model_that_is_not_there(open_page, tmp_path):
    with serving(tmp_path, DEFT_MODEL="org/nowhere") as server:
        page = open_page(url=server.url)
        page.get_by_role("button", name="Face 1").click()
        page.get_by_role("alert").get_by_text("The model org/nowhere cannot be loaded").wait_for()
