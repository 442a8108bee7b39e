"""The Space: shows what moved in a clip of a face, when, and what an annotation convention calls it.

    DEFT_MODEL=org/deft-llm python app.py

Environment variables: `DEFT_MODEL` is the repository or folder of the model, `DEFT_REVISION` its revision, `HF_TOKEN`
a token that may read it, `DEFT_FACE_FINDER` the face finder, and `DEFT_MAX_NEW_TOKENS` the longest answer (see
`explaining.Explainer`). A GPU is used if there is one.

Clips are not kept. An uploaded clip is deleted when its answer is ready. If it was never explained, it is deleted
after ten minutes. What was measured in it stays in memory for questions, for ten minutes after the last one.
`Uploads` counts the visitors per file, because Gradio stores identical uploads as one file.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from starlette.middleware import Middleware

from drawing import draw, draw_nothing, draw_problem, draw_turns
from explaining import MAX_MEGABYTES, MAX_SECONDS, ClipProblem, Explainer, Explanation

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
    f"One face, up to {MAX_SECONDS:.0f} seconds and {MAX_MEGABYTES} MB. Your clip is deleted as soon as its answer is "
    "ready. For your questions, what was measured in it stays in memory for ten minutes. Nothing is stored."
)
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

    def explained(clip: str | None, face: str, progress: Callable) -> Explanation:
        if not clip:
            raise ClipProblem("There is not a clip yet: upload one, record yourself, or take an example.", 400)
        try:
            return explainer.explain(clip, face, progress)
        except ClipProblem:
            raise
        # No file may stop the page; the log has the details.
        except Exception as error:
            logger.exception("A clip could not be explained")
            raise ClipProblem("Something went wrong here, not with your clip. Please try again.", 500) from error
        finally:
            uploads.done(clip)

    def for_page(clip: str | None, face: str, progress: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        try:
            found = explained(clip, face, progress)
            drawn, talk = draw(found), found.conversation
        except ClipProblem as problem:
            drawn, talk = draw_problem(str(problem)), None
        return drawn, talk, [], draw_turns([]), gr.update(visible=talk is not None), gr.update(value=None)

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
            return explained(video, face, lambda share, what: None).to_json()
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
                result = gr.HTML(draw_nothing(), elem_id="deft-result")
                with gr.Column(visible=False, elem_id="deft-chat") as chat:
                    gr.HTML("<h3>Ask about this clip</h3>")
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
        options = {
            "api_visibility": "private",
            "concurrency_id": "model",
            "show_progress": "full",
            "scroll_to_output": True,
        }
        shown = [result, talk, turns, log, chat]
        go.click(for_page, [clip, face], [*shown, clip], show_progress_on=[result], **options)
        for button, path in examples:
            button.click(
                lambda path=str(path), progress=gr.Progress(): for_page(path, "crop", progress)[:-1],  # noqa: B008
                None,
                shown,
                show_progress_on=[result],
                **options,
            )
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
