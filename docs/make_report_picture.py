"""Makes docs/report.png: what the report of a sample looks like. Needs Chromium, its driver and selenium.

    python docs/make_report_picture.py
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import exporter

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "report.png"
SAMPLE = ROOT / "sample_models" / "encoder_keras3" / "model.keras"
WIDTH, HEIGHT, SCALE, MAX_BYTES = 1240, 1560, 0.7, 150_000


def picture(page: Path, profile: Path) -> bytes:
    """The top of the page, with one layer open and its channels shown."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        metrics = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": SCALE, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(page.as_uri())
        browser.find_element("css selector", "#layer-2 .name button").click()
        browser.find_element("css selector", "#layer-2 .channels button").click()
        browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
        data: bytes = browser.get_screenshot_as_png()
        return data
    finally:
        browser.quit()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "report.html"
        exporter.write(exporter.read(SAMPLE), page)
        data = picture(page, Path(name) / "profile")
    if len(data) > MAX_BYTES:
        raise SystemExit(f"{len(data)} bytes: expected at most {MAX_BYTES}; make WIDTH or HEIGHT smaller")
    OUT.write_bytes(data)
    print(f"{OUT.relative_to(ROOT)}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
