#!/usr/bin/env python3
"""What a browser makes of the status page. Run by tests/it/page.rs: URL, the pid of an agent to stop, a directory for
screenshots."""

import importlib.util
import os
import pathlib
import shutil
import signal
import sys

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

URL, AGENT, SHOTS = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
SOON = 20


def browser(scripts=True):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser")
    for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def axe_source():
    package = importlib.util.find_spec("axe_playwright_python").submodule_search_locations[0]
    return (pathlib.Path(package) / "axe.min.js").read_text()


def wait_for(page, what, found):
    message = f"waited {SOON} s in vain for {what}"
    # A page that looks again by itself may be another one by the time an element that was found is read.
    wait = WebDriverWait(page, SOON, 0.05, ignored_exceptions=[StaleElementReferenceException])
    return wait.until(lambda _: found(), message)


def text_of(page, name):
    return page.find_element(By.ID, name).text


def look_like(page, theme, width):
    features = [{"name": "prefers-color-scheme", "value": theme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    # Two frames later everything is laid out and painted.
    page.execute_async_script("const f = requestAnimationFrame; f(() => f(arguments[0]));")


def check_looks(page, axe, what):
    for theme in ["light", "dark"]:
        for width in [1200, 390]:
            look_like(page, theme, width)
            wide = page.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{what}, {theme}: {wide} pixels wide on a screen of {width}"
            page.execute_script(axe)
            found = page.execute_async_script("axe.run().then(arguments[0], e => arguments[0](String(e)))")
            assert isinstance(found, dict), found
            names = {rule["id"] for rule in found["passes"]}
            assert "color-contrast" in names, f"contrast was not checked: {sorted(names)}"
            problems = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]
            assert not problems, f"{what}, {theme}, {width}: {problems}"
            page.save_screenshot(SHOTS / f"{what}-{theme}-{width}.png")
    look_like(page, "light", 1200)


def check_keyboard(page):
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    reached = []
    for _ in range(20):
        focused = page.switch_to.active_element
        name = focused.get_attribute("id") or focused.get_attribute("href") or focused.get_attribute("aria-labelledby")
        if focused.tag_name == "body" or name in reached:
            break
        outline = focused.value_of_css_property("outline-style")
        assert outline != "none", f"nobody sees that {name} has the focus"
        reached.append(name)
        if name == "map":
            check_map(page, focused)
        focused.send_keys(Keys.TAB)
    for part in ["map", "stalled-title", "shards-title", "events", f"{URL}metrics"]:
        assert part in reached, f"no key leads to {part}: {reached}"
    assert reached[0].endswith("#stalled-agents"), f"the way past the map comes first: {reached}"


def check_map(page, focused):
    focused.send_keys(Keys.HOME)
    wait_for(page, "a cell's agent", lambda: "last beat" in text_of(page, "cell"))
    first = text_of(page, "cell")
    assert first.startswith("pid "), first
    focused.send_keys(Keys.ARROW_RIGHT)
    wait_for(page, "the next cell's", lambda: text_of(page, "cell").split()[1] != first.split()[1])


def check_live(page):
    axe = axe_source()
    page.get(URL)
    wait_for(page, "health", lambda: text_of(page, "health").startswith("All well: 12 agents beat"))
    wait_for(page, "the map", lambda: page.find_element(By.ID, "map").is_displayed())
    wait_for(page, "the plots", lambda: len(page.find_elements(By.TAG_NAME, "svg")) == 3)
    check_looks(page, axe, "well")
    check_keyboard(page)

    os.kill(AGENT, signal.SIGSTOP)
    wait_for(page, "the stall", lambda: text_of(page, "health") == "1 of 12 agents is stalled")
    wait_for(page, "its row", lambda: str(AGENT) in text_of(page, "stalled"))
    wait_for(page, "its event", lambda: f"stall pid {AGENT}" in text_of(page, "events"))
    assert page.title.startswith("! "), page.title
    check_looks(page, axe, "stalled")
    os.kill(AGENT, signal.SIGCONT)
    wait_for(page, "the resume", lambda: text_of(page, "health").startswith("All well"))
    wait_for(page, "an empty table", lambda: text_of(page, "stalled") == "nobody")

    asked = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked and all(name.startswith(URL) or name.startswith("data:") for name in asked), asked
    said = [entry for entry in page.get_log("browser") if entry["level"] != "INFO"]
    assert not said, said


def check_without_scripts(page):
    os.kill(AGENT, signal.SIGSTOP)
    page.get(URL)

    def shows_stall():
        # It looks again by itself.
        return str(AGENT) in text_of(page, "stalled") and "1 of 12 agents is stalled" in text_of(page, "health")

    wait_for(page, "the stall without scripts", shows_stall)
    os.kill(AGENT, signal.SIGCONT)
    wait_for(page, "both shards", lambda: len(page.find_elements(By.CSS_SELECTOR, "#shards tr")) == 2)
    wait_for(page, "no map", lambda: not page.find_element(By.ID, "map").is_displayed())
    page.save_screenshot(SHOTS / "without-scripts.png")


def main():
    SHOTS.mkdir(parents=True, exist_ok=True)
    for check, scripts in [(check_live, True), (check_without_scripts, False)]:
        page = browser(scripts)
        try:
            page.set_script_timeout(SOON)
            check(page)
        finally:
            page.quit()


main()
