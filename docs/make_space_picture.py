"""Takes the picture of the Space in the documentation: `python docs/make_space_picture.py http://127.0.0.1:7860`.

The Space runs with the model of `make demo`, and its first example is explained. Writes docs/space.png.
"""

from __future__ import annotations

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

OUT = Path(__file__).with_name("space.png")
WIDTH = 1000  # pixels of the picture
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main(url: str) -> None:
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 900}, color_scheme="light")
        page.goto(url)
        page.get_by_role("button", name="Face 1").click()
        page.locator(".deft-verdict").wait_for(timeout=120_000)
        page.evaluate("document.querySelector('.deft-film video').pause(); document.activeElement.blur()")
        page.evaluate("document.querySelector('.deft-film video').currentTime = 0")
        page.wait_for_timeout(1000)
        taken = Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")
        browser.close()
    height = round(taken.height * WIDTH / taken.width)
    small = taken.resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(256, dither=Image.Dither.NONE).save(OUT, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
