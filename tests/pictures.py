"""The README's pictures of the console: `python -m tests.pictures`, while `fogbook up` runs and a village has lived in
it (`fogbook simulate --days 6 --devices 24`)."""

from __future__ import annotations

import argparse
import json
import shutil
from base64 import b64decode
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

import httpx
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parents[1] / "ops" / "console"
SIZE = (1200, 780)
QUALITY = 88
Theme = Literal["light", "dark"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--home", type=Path, default=Path("~/.fogbook"), help="where `fogbook up` keeps its run"
    )
    parser.add_argument("--zone", default="village")
    given = parser.parse_args()
    run = json.loads((given.home.expanduser() / "run.json").read_text())
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        found = next(path for name in BROWSERS if (path := shutil.which(name)))
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        for name, path, asked, theme in screens(run, given.zone):
            context = browser.new_context(
                base_url=run["url"], viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme=theme
            )
            page = context.new_page()
            sign_in(page, run["admin_key"])
            page.goto(f"{path}?{urlencode(asked | {'zone': given.zone})}")
            page.wait_for_timeout(500)
            taken = context.new_cdp_session(page).send(
                "Page.captureScreenshot", {"format": "webp", "quality": QUALITY}
            )
            (FOLDER / f"{name}.webp").write_bytes(b64decode(taken["data"]))
            context.close()
        browser.close()


def screens(run: dict[str, str], zone: str) -> list[tuple[str, str, dict[str, str], Theme]]:
    """Of each picture its name, the page's path and parameters, and the theme."""
    headers = {"authorization": f"Bearer {run['admin_key']}", "fogbook-zone": zone}
    with httpx.Client(base_url=run["url"], headers=headers) as http:
        paid = http.get("/history/events", params={"type": "RewardPaid", "limit": "1"}).text.splitlines()
        position = str(json.loads(paid[0])["position"])
    return [
        ("overview", "/", {}, "light"),
        ("market", "/console/market", {}, "light"),
        ("staking", "/console/staking", {}, "dark"),
        ("settlement", "/console/settlement", {}, "light"),
        ("event", "/console/event", {"position": position}, "light"),
        ("operations", "/console/operations", {}, "dark"),
    ]


def sign_in(page: Page, key: str) -> None:
    page.goto("/console/sign-in")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_load_state("load")


if __name__ == "__main__":
    main()
