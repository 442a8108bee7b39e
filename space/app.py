"""The Space: shows what moved in a clip of a face, when, and what an annotation convention calls it.

    DEFT_MODEL=org/deft-llm python app.py

Environment variables: `DEFT_MODEL` is the repository or folder of the model, `DEFT_REVISION` its revision, `HF_TOKEN`
a token that may read it, `DEFT_FACE_FINDER` the face finder, and `DEFT_MAX_NEW_TOKENS` the longest answer (see
`explaining.Explainer`). A GPU is used if there is one.

Clips are not kept. An uploaded clip is deleted when its answer is ready. If it was never explained, it is deleted
after ten minutes. What was measured in it stays in memory for questions, for ten minutes after the last one. So does a
video longer than a clip, for its expressions to be explained; of all visitors' videos, the latest eight.
`Uploads` counts the visitors per file, because Gradio stores identical uploads as one file.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from starlette.middleware import Middleware

from drawing import Side, draw, draw_comparison, draw_nothing, draw_problem, draw_turns, draw_watched, side_of
from explaining import MAX_MEGABYTES, MAX_VIDEO_SECONDS, ClipProblem, Explainer, Explanation
from timeline import Watched, escaped

logger = logging.getLogger("deft-space")

HERE = Path(__file__).parent
EXAMPLES = sorted((HERE / "examples").glob("*.mp4"))
QUEUE = 40  # requests that may wait
FACES = [("Find the face", "find"), ("The picture is a face", "crop")]

TITLE = "Micro-expressions, and the motion that shows them"
INTRODUCTION = """
# Micro-expressions, and the motion that shows them
See what moved in a face, where, when and how far, and what an annotation convention calls it.
"""
NOTICE = """
<div class="deft-notice" role="note"><strong>What this is not for.</strong> It does not know what anybody feels, thinks
or hides. Do not use it on applicants, employees, pupils, travellers, patients or suspects, to detect lies, or on
people who have not agreed. In the European Union, inferring emotions at work and in education is prohibited
(AI Act, Article 5(1)(f)).</div>
"""
PRIVACY = (
    f"One face, up to {MAX_VIDEO_SECONDS / 60:.0f} minutes and {MAX_MEGABYTES} MB. Your file is deleted as soon as "
    "its answer is ready. For your questions, what was measured, and a video longer than a clip, stay in memory for "
    "ten minutes. Nothing is stored."
)
# Tells the page which expression of the timeline was chosen, by a button or by its place in the drawing.
CHOOSE = """
element.addEventListener('click', (event) => {
  const chosen = event.target.closest('[data-number]');
  if (!chosen) return;
  for (const button of element.querySelectorAll('button[data-number]'))
    button.setAttribute('aria-pressed', button.dataset.number === chosen.dataset.number);
  const result = document.querySelector('#deft-result');
  if (result.getBoundingClientRect().top > 0.8 * innerHeight) result.scrollIntoView({block: 'center'});
  trigger('click', {number: Number(chosen.dataset.number)});
});
"""
# Brings what is new into the window, unless it begins there.
LOOK = """() => {
  const found = document.querySelector(%r);
  const top = found ? found.getBoundingClientRect().top : 0;
  if (top < 0 || top > innerHeight / 2) found.scrollIntoView();
}"""
THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.slate,
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    radius_size=gr.themes.sizes.radius_lg,
).set(
    button_primary_background_fill="#0f766e",
    button_primary_background_fill_hover="#115e59",
    button_primary_background_fill_dark="#0f766e",
    button_primary_background_fill_hover_dark="#115e59",
    button_primary_text_color="#ffffff",
)


def _status(words: str) -> str:
    """What screen readers read out when something new is on the page."""
    return f'<p class="deft-hidden" role="status">{escaped(words)}</p>'


def _about_both(first: Any, second: Any) -> Any:
    """A conversation about the clips of two conversations."""
    return type(second)(second.pipeline, [*first.prepared, *second.prepared])


@contextmanager
def told_in_words(what: str) -> Iterator[None]:
    """Turns every error into a `ClipProblem`. No file may stop the page; the log has the details."""
    try:
        yield
    except ClipProblem:
        raise
    except Exception as error:
        logger.exception(what)
        raise ClipProblem("Something went wrong here, not with your clip. Please try again.", 500) from error


class Uploads:
    """Counts the visitors that wait for each uploaded file. An ASGI middleware reads the answers of `/upload`."""

    def __init__(self):
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()

    def arrived(self, paths: list[str]) -> None:
        with self._lock:
            # Forget files that Gradio has deleted because they were never explained.
            self._waiting = Counter({path: count for path, count in self._waiting.items() if Path(path).exists()})
            self._waiting.update(str(Path(path).resolve()) for path in paths)

    def done(self, path: str) -> None:
        """Deletes an uploaded file that no other visitor waits for. Other files are not deleted."""
        folder = Path(gr.utils.get_upload_folder()).resolve()
        file = Path(path).resolve()
        if not file.is_relative_to(folder):
            return
        with self._lock:
            self._waiting[str(file)] -= 1
            if self._waiting[str(file)] > 0:
                return
            del self._waiting[str(file)]
            file.unlink(missing_ok=True)
            if file.parent != folder and not any(file.parent.iterdir()):
                file.parent.rmdir()

    def middleware(self, app: Callable) -> Callable:
        async def counted(scope, receive, send):
            if scope["type"] != "http" or not scope["path"].endswith("/upload"):
                return await app(scope, receive, send)
            body: list[bytes] = []

            async def watched(message):
                if message["type"] == "http.response.start":
                    body.append(b"" if message["status"] == 200 else b"!")
                elif message["type"] == "http.response.body":
                    body.append(message.get("body", b""))
                    if not message.get("more_body") and body[0] != b"!":
                        self.arrived(json.loads(b"".join(body)))
                await send(message)

            return await app(scope, receive, watched)

        return counted


def make_page(explainer: Explainer, uploads: Uploads | None = None) -> gr.Blocks:
    """Makes the page and its API endpoint `/explain`."""
    uploads = uploads or Uploads()

    def explained(clip: str | None, face: str, progress: Callable, timeline: bool) -> Any:
        if not clip:
            raise ClipProblem("There is not a clip yet: upload one, record yourself, or take an example.", 400)
        with told_in_words("A clip could not be explained"):
            try:
                return explainer.explain(clip, face, progress, timeline=timeline)
            finally:
                uploads.done(clip)

    def for_page(clip: str | None, face: str, kept: Side | None, progress: Callable) -> tuple[Any, ...]:
        name = Path(clip).stem[:40] if clip else ""
        try:
            found = explained(clip, face, progress, True)
        except ClipProblem as problem:
            return "", None, *without_result(draw_problem(str(problem)), "The clip could not be explained.")
        if isinstance(found, Watched):
            found.name = name
            told = "The timeline is ready. Choose an expression." if found.choices else "The timeline is ready."
            return draw_watched(found), found, *without_result("", told)
        return "", None, *with_result(found, name, kept)

    def on_upload(
        clip: str | None,
        face: str,
        kept: Side | None,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        return *for_page(clip, face, kept, progress), gr.update(value=None)

    def for_interval(
        watched: Watched | None,
        kept: Side | None,
        event: gr.EventData,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        try:
            if watched is None:
                raise ClipProblem("The video is no longer in memory. Upload it again to explain its expressions.", 410)
            with told_in_words("An interval could not be explained"):
                found = explainer.explain_interval(watched, int(event.number), progress)
        except ClipProblem as problem:
            told = "The expression could not be explained."
            return watched, kept, *without_result(draw_problem(str(problem)), told)
        return watched, kept, *with_result(found, f"{watched.name}, {found.title[:1].lower()}{found.title[1:]}", kept)

    def with_result(found: Explanation, name: str, kept: Side | None) -> tuple[Any, ...]:
        """The outputs `shown` of an explanation, and of its comparison with the one that was kept."""
        side, talk, compared = side_of(found, name), found.conversation, ""
        about = "this expression" if found.title else "this clip"
        if kept is not None:
            compared = draw_comparison(kept, side)
            if kept.conversation is not None and talk is not None:
                talk, about = _about_both(kept.conversation, talk), "the two clips, A first"
        return (
            draw(found),
            compared,
            _status(f"{found.title or 'The clip'} is explained below."),
            side,
            gr.update(visible=True),
            *with_chat(talk, about),
        )

    def without_result(drawn: str, told: str) -> tuple[Any, ...]:
        """The outputs `shown` if there is nothing to keep or to ask about."""
        return drawn, "", _status(told), None, gr.update(visible=False), *with_chat(None, "this clip")

    def with_chat(talk: Any, about: str) -> tuple[Any, ...]:
        return talk, [], draw_turns([]), f"<h3>Ask about {about}</h3>", gr.update(visible=talk is not None)

    def keep_it(current: Side | None) -> tuple[Any, ...]:
        told = "Explain another clip or expression, and both are shown side by side."
        name = escaped(current.name) if current else ""
        return current, f'<p class="deft-small" role="status">Kept: {name}. {told}</p>', gr.update(visible=True)

    def drop_it(current: Side | None) -> tuple[Any, ...]:
        talk = None if current is None else current.conversation
        return None, "", gr.update(visible=False), "", *with_chat(talk, "this clip")

    def answered(question: str, talk: Any, turns: list[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
        try:
            if talk is None:
                raise ClipProblem("The clip is no longer in memory. Explain it again to ask about it.", 410)
            answer = ""
            for answer in explainer.ask(talk, question):
                yield draw_turns([*turns, (question, answer)]), question, talk, turns
        except ClipProblem as problem:
            yield draw_turns(turns, str(problem)), question, talk, turns
        # No question may stop the page; the log has the details.
        except Exception:
            logger.exception("A question could not be answered")
            yield draw_turns(turns, "Something went wrong here. Please try again."), question, talk, turns
        else:
            turns = [*turns, (question, answer)]
            yield draw_turns(turns), "", talk, turns

    def for_api(video: str | None, face: str = "find") -> dict[str, Any]:
        """Explains a clip: class, action units, evidence, rationale, key frames and scores.

        The message of an error says what is wrong; its title has the HTTP status.
        """
        try:
            return explained(video, face, lambda share, what: None, False).to_json()
        except ClipProblem as problem:
            raise gr.Error(str(problem), title=f"Status {problem.status}", print_exception=False) from problem

    blocks = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 600), fill_width=True)
    with blocks as page, gr.Column(elem_classes="deft-page"):
        gr.Markdown(INTRODUCTION, elem_classes="deft-title")
        gr.HTML(NOTICE)
        with gr.Row(elem_classes="deft-main"):
            with gr.Column(scale=0, min_width=320, elem_classes="deft-side"):
                clip = gr.Video(
                    label="Clip",
                    sources=["upload", "webcam"],
                    height=290,
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_id="deft-clip",
                )
                face = gr.Radio(FACES, value="find", label="Where is the face?", elem_id="deft-where")
                go = gr.Button("Explain this clip", variant="primary", elem_id="deft-go")
                gr.Markdown(PRIVACY, elem_classes="deft-small")
                examples = []
                if EXAMPLES:
                    gr.Markdown("**Or take an example** (rendered faces)", elem_classes="deft-small")
                    with gr.Row(elem_classes="deft-examples"):
                        for number, path in enumerate(EXAMPLES, start=1):
                            button = gr.Button(
                                f"Face {number}",
                                icon=path.with_suffix(".jpg"),
                                size="sm",
                                min_width=60,
                                elem_classes="deft-example",
                            )
                            examples.append((button, path))
            with gr.Column(scale=1, min_width=320, elem_classes="deft-result"):
                timeline = gr.HTML("", elem_id="deft-timeline", js_on_load=CHOOSE)
                status = gr.HTML("", elem_id="deft-status")
                comparison = gr.HTML("", elem_id="deft-comparison")
                result = gr.HTML(draw_nothing(), elem_id="deft-result")
                with gr.Row(visible=False, elem_classes="deft-keeping") as keeping:
                    keep = gr.Button("Keep this result to compare it", elem_id="deft-keep", size="sm")
                    drop = gr.Button("Let go of the kept result", elem_id="deft-drop", size="sm", visible=False)
                what_is_kept = gr.HTML("")
                with gr.Column(visible=False, elem_id="deft-chat") as chat:
                    heading = gr.HTML("<h3>Ask about this clip</h3>")
                    log = gr.HTML(draw_turns([]))
                    question = gr.Textbox(
                        label="Your question",
                        info="Such as: Which side moved? Could this be surprise? What would one expect of AU9?",
                        max_lines=1,
                        elem_id="deft-question",
                    )
                    ask = gr.Button("Ask", elem_id="deft-ask")
                talk = gr.State(None, time_to_live=600)
                turns = gr.State([], time_to_live=600)
                watched, current, kept = (gr.State(None, time_to_live=600) for _ in range(3))
        options = {"api_visibility": "private", "show_progress": "full"}
        talking = [talk, turns, log, heading, chat]
        shown = [result, comparison, status, current, keeping, *talking]
        # A video is followed beside the model, so that nobody waits two minutes for an answer.
        following = {
            **options,
            "show_progress_on": [result],
            "scroll_to_output": True,
            "concurrency_id": "clips",
        }
        parts = "#deft-comparison .deft-compared, #deft-result .deft"
        look = {"fn": None, "js": LOOK % parts, "api_visibility": "private"}
        look_first = look | {"js": LOOK % f"#deft-timeline .deft-watched, {parts}"}
        go.click(on_upload, [clip, face, kept], [timeline, watched, *shown, clip], **following).then(**look_first)
        for button, path in examples:
            button.click(
                lambda kept, path=str(path), progress=gr.Progress(): for_page(path, "crop", kept, progress),  # noqa: B008
                kept,
                [timeline, watched, *shown],
                **following,
            ).then(**look_first)
        timeline.click(
            for_interval,
            [watched, kept],
            [watched, kept, *shown],
            show_progress_on=[result],
            concurrency_id="model",
            **options,
        ).then(**look)
        silent = {"api_visibility": "private", "show_progress": "hidden"}
        keep.click(keep_it, current, [kept, what_is_kept, drop], **silent)
        drop.click(drop_it, current, [kept, what_is_kept, drop, comparison, *talking], **silent)
        gr.on(
            [ask.click, question.submit],
            answered,
            [question, talk, turns],
            [log, question, talk, turns],
            api_visibility="private",
            concurrency_id="model",
            show_progress="minimal",
            show_progress_on=[log],
        )
        # The endpoint for programs returns data instead of the page.
        answer = gr.JSON(visible=False)
        gr.Button(visible=False).click(
            for_api, [clip, face], answer, api_name="explain", concurrency_id="model", concurrency_limit=1
        )
    return page.queue(max_size=QUEUE, default_concurrency_limit=1)


def launch(explainer: Explainer, **options: Any) -> tuple[Any, str, str]:
    """Starts the server.

    Args:
        explainer: Explains the clips.
        **options: Arguments of `Blocks.launch`.
    """
    uploads = Uploads()
    page = make_page(explainer, uploads)
    return page.launch(
        max_file_size=f"{MAX_MEGABYTES}mb",
        theme=THEME,
        css_paths=HERE / "style.css",
        footer_links=["api"],
        app_kwargs={"middleware": [Middleware(uploads.middleware)]},
        **options,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    chosen = Explainer(
        os.environ.get("DEFT_MODEL", "org/deft-llm"),
        revision=os.environ.get("DEFT_REVISION") or None,
        finder=os.environ.get("DEFT_FACE_FINDER", "auto"),
        max_new_tokens=int(os.environ.get("DEFT_MAX_NEW_TOKENS", "384")),
    )

    def warm() -> None:
        try:
            chosen.load()
        except ClipProblem as problem:
            logger.error("%s", problem, exc_info=problem.__cause__)

    # Load the model in the background, so that the first visitor does not wait. The page shows an error if it fails.
    threading.Thread(target=warm, daemon=True).start()
    launch(chosen)
