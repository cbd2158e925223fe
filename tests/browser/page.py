#!/usr/bin/env python3
"""What a browser makes of the status page. Run by tests/it/page.rs: the name of a check, URL, a directory for
screenshots, pids."""

import importlib.util
import os
import pathlib
import re
import shutil
import signal
import sys

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHECK, URL, SHOTS = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
PIDS = [int(pid) for pid in sys.argv[4:]]
SOON = 20
WIDTHS = [1400, 900, 390]


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


def all_of(page, selector):
    return page.find_elements(By.CSS_SELECTOR, selector)


def look_like(page, theme, width):
    features = [{"name": "prefers-color-scheme", "value": theme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    # Two frames later everything is laid out and painted.
    page.execute_async_script("const f = requestAnimationFrame; f(() => f(arguments[0]));")


def check_looks(page, what):
    axe = axe_source()
    for theme in ["light", "dark"]:
        for width in WIDTHS:
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
    look_like(page, "light", 1400)


def check_silence_of_console(page):
    said = [entry for entry in page.get_log("browser") if entry["level"] != "INFO"]
    assert not said, said


def check_keyboard(page):
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    reached = []
    for _ in range(40):
        focused = page.switch_to.active_element
        name = focused.get_attribute("id") or focused.get_attribute("href") or focused.get_attribute("aria-labelledby")
        name = name or focused.text or focused.get_attribute("aria-label")
        if focused.tag_name == "body" or name in reached:
            break
        outline = focused.value_of_css_property("outline-style")
        assert outline != "none", f"nobody sees that {name} has the focus"
        reached.append(name)
        if name == "map":
            check_map(page, focused)
        focused.send_keys(Keys.TAB)
    for part in ["q", "Name", "map", "events", "stalled-title", f"{URL}metrics"]:
        assert part in reached, f"no key leads to {part}: {reached}"
    assert any(name.startswith("Observer") for name in reached), reached
    assert reached[0].endswith("#main"), f"the way past the search comes first: {reached}"


def check_map(page, focused):
    focused.send_keys(Keys.HOME)
    wait_for(page, "a cell's agent", lambda: "last beat" in text_of(page, "cell"))
    first = text_of(page, "cell")
    assert first.startswith("api-"), first
    focused.send_keys(Keys.ARROW_RIGHT)
    wait_for(page, "the next cell's", lambda: text_of(page, "cell").split("\n")[0] != first.split("\n")[0])


def groups(page):
    return [group.text.replace("\n", " ") for group in all_of(page, ".group button")]


def check_groups(page):
    """Names that differ in a number are one group; the choice is in the address, and outlives a reload."""
    wait_for(page, "groups by name", lambda: groups(page) == ["api-* 9", "worker 3"])
    page.find_element(By.XPATH, "//button[text()='Shard']").click()
    wait_for(page, "groups by shard", lambda: all(text.startswith("shard ") for text in groups(page)))
    assert page.current_url == f"{URL}#by=shard", page.current_url
    page.refresh()
    wait_for(page, "what was before this page", lambda: page.execute_script("return samples.size") > 5)
    wait_for(page, "the same groups", lambda: groups(page) and all(text.startswith("shard ") for text in groups(page)))
    checked = all_of(page, "#by [aria-checked=true]")
    assert [button.text for button in checked] == ["Shard"]
    checked[0].send_keys(Keys.ARROW_LEFT)
    wait_for(page, "groups by user", lambda: groups(page) == [f"user {os.geteuid()} 12"])
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    wait_for(page, "groups by name again", lambda: len(groups(page)) == 2)
    assert page.current_url == f"{URL}#by=comm", page.current_url
    page.get(URL)
    wait_for(page, "groups by name as before", lambda: groups(page) == ["api-* 9", "worker 3"])


def check_pointer(page):
    """A cell under the pointer says who it is; a click opens it, and the address is a link to it."""
    canvas = all_of(page, ".group canvas")[0]
    ActionChains(page).move_to_element_with_offset(canvas, 4 - canvas.size["width"] // 2, 4 - canvas.size["height"] // 2).perform()
    wait_for(page, "the card", lambda: "last beat" in text_of(page, "cell"))
    pid = int(text_of(page, "cell").split("\n")[0].split()[-1])
    assert pid in PIDS, text_of(page, "cell")
    ActionChains(page).click().perform()
    wait_for(page, "its drawer", lambda: text_of(page, "drawer-title").endswith(f" {pid}"))
    assert page.current_url == f"{URL}agents/{pid}", page.current_url
    for part in ["beats", "Last beat", f"varta-fleet explain {pid}", "began to beat"]:
        assert part in text_of(page, "drawer"), f"{part}: {text_of(page, 'drawer')}"
    check_looks(page, "drawer")
    page.refresh()
    wait_for(page, "the drawer of the link", lambda: text_of(page, "drawer-title").endswith(f" {pid}"))
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait_for(page, "the drawer to close", lambda: not page.find_element(By.ID, "drawer").is_displayed())
    assert page.current_url == URL, page.current_url
    page.back()
    wait_for(page, "the drawer again", lambda: text_of(page, "drawer-title").endswith(f" {pid}"))
    page.find_element(By.CSS_SELECTOR, "#drawer .close").click()


def check_search(page):
    """A part of a name, a pid, a filter; the arrow keys and Enter lead to an agent."""
    page.find_element(By.TAG_NAME, "body").send_keys("/")
    box = page.switch_to.active_element
    assert box.get_attribute("id") == "q"
    box.send_keys("orke")
    wait_for(page, "those found", lambda: text_of(page, "drawer-title") == "3 agents")
    assert page.current_url.endswith("#q=orke"), page.current_url
    box.send_keys(Keys.ARROW_DOWN, Keys.NULL)
    found = page.switch_to.active_element
    assert found.text.startswith("worker"), found.text
    found.send_keys(Keys.ENTER)
    wait_for(page, "one of them", lambda: text_of(page, "drawer-title").startswith("worker "))
    for asked, title in [(str(PIDS[5]), "1 agent"), ("shard:7", "Nobody"), ("comm:api-* state:up", "9 agents"), ("zzz", "Nobody")]:
        box = page.find_element(By.ID, "q")
        box.clear()
        box.send_keys(asked)
        wait_for(page, asked, lambda: text_of(page, "drawer-title") == title and page.find_element(By.ID, "q").get_attribute("value") == asked)
    box.send_keys(Keys.ESCAPE)
    wait_for(page, "the end of the search", lambda: not page.find_element(By.ID, "drawer").is_displayed())
    all_of(page, ".group button")[1].click()
    wait_for(page, "the agents of a group", lambda: text_of(page, "drawer-title") == "3 agents")
    page.find_element(By.CSS_SELECTOR, "#drawer .close").click()


def check_live(page):
    page.get(URL)
    wait_for(page, "health", lambda: text_of(page, "health") == "All well: 12 agents beat")
    wait_for(page, "the map", lambda: page.find_element(By.ID, "map").is_displayed())
    wait_for(page, "four lines", lambda: len(all_of(page, ".spark .line[d]")) == 4)
    wait_for(page, "a rate", lambda: all_of(page, "#tile-beats .value")[0].text.isdigit())
    numbers = [value.text for value in all_of(page, ".tile .value")][:3]
    assert numbers == ["12", "0", "0"], numbers
    assert not all_of(page, "#plots svg"), "the observer's own figures are folded"
    check_looks(page, "well")
    check_keyboard(page)
    check_groups(page)
    check_pointer(page)
    check_search(page)
    page.find_element(By.CSS_SELECTOR, "#observer summary").click()
    wait_for(page, "the plots", lambda: len(all_of(page, "#plots svg")) == 3)
    assert len(all_of(page, "#shards tr")) == 2
    check_looks(page, "observer")

    asked = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked and all(name.startswith(URL) or name.startswith("data:") for name in asked), asked
    check_silence_of_console(page)


def check_wave(page):
    page.get(URL)
    wait_for(page, "health", lambda: text_of(page, "health") == "All well: 9 agents beat")
    wait_for(page, "the group", lambda: groups(page) == ["api-* 6", "worker 3"])
    all_of(page, ".group button")[0].click()
    wait_for(page, "its agents", lambda: text_of(page, "drawer-title") == "6 agents")
    for pid in PIDS:
        os.kill(pid, signal.SIGSTOP)
    # Whoever has opened a list keeps it, and it says what is so now.
    wait_for(page, "that all of them stalled", lambda: [state.text for state in all_of(page, ".found .bad")] == ["stalled"] * 6)
    page.find_element(By.CSS_SELECTOR, "#drawer .close").click()
    wait_for(page, "the wave", lambda: text_of(page, "health") == "9 of 9 agents are stalled")
    assert page.title.startswith("! "), page.title
    told = wait_for(page, "one line", lambda: [line for line in all_of(page, "#events .told") if line.text.startswith("9 agents stalled within ")])
    assert "6 × api-*, 3 × worker" in told[0].text, told[0].text
    wait_for(page, "the worst group", lambda: groups(page)[0] == "api-* all 6 stalled")
    wait_for(page, "to whom", lambda: "Most: api-* (6 of 6), worker (3 of 3)" in text_of(page, "context"))
    assert re.search(r"Silent since \d\d:\d\d:\d\d", text_of(page, "context")), text_of(page, "context")
    assert "varta-fleet explain" in text_of(page, "context")
    runbook = page.find_element(By.LINK_TEXT, "What to do").get_attribute("href")
    assert runbook == f"{URL}runbook#vartastallwave", runbook
    wait_for(page, "their rows", lambda: len(all_of(page, "#stalled tr.bad")) == 9)
    check_looks(page, "wave")
    told[0].find_element(By.TAG_NAME, "summary").click()
    link = told[0].find_element(By.LINK_TEXT, str(PIDS[0]))
    link.click()
    wait_for(page, "its verdict", lambda: "is stalled: silent for" in text_of(page, "drawer"))
    assert len(all_of(page, "#drawer .strip .silence")) == 1
    os.kill(PIDS[0], signal.SIGCONT)
    wait_for(page, "the drawer to follow", lambda: "beats again after" in text_of(page, "drawer"))
    check_copies(page)
    for pid in PIDS[1:]:
        os.kill(pid, signal.SIGCONT)
    wait_for(page, "the end", lambda: text_of(page, "health").startswith("All well"))
    wait_for(page, "an empty table", lambda: text_of(page, "stalled").startswith("None."))

    os.kill(PIDS[1], signal.SIGKILL)
    wait_for(page, "the death", lambda: f"{PIDS[1]} died by SIGKILL" in text_of(page, "events"))
    wait_for(page, "its headline", lambda: text_of(page, "health").startswith("1 of 9 agents died by signal 9"))
    wait_for(page, "its number", lambda: all_of(page, "#tile-died .value")[0].text == "1")
    wait_for(page, "a line for it", lambda: "highest 1" in all_of(page, "#tile-died svg")[0].get_attribute("aria-label"))
    row = wait_for(page, "its row", lambda: [row.text for row in all_of(page, "#dead tr") if str(PIDS[1]) in row.text])
    assert row[0].startswith("api-2 ") and "signal 9" in row[0], row
    wait_for(page, "when", lambda: re.search(r"Died most: api-2\s+Since \d\d:\d\d:\d\d", text_of(page, "context")))
    page.get(f"{URL}agents/{PIDS[1]}")
    wait_for(page, "its end", lambda: "died by SIGKILL at" in text_of(page, "drawer"))
    assert text_of(page, "drawer-title") == f"api-2 {PIDS[1]}", text_of(page, "drawer-title")
    page.get(runbook)
    section = page.find_element(By.CSS_SELECTOR, "h2:target")
    assert section.text == "VartaStallWave" and section.is_displayed(), section.text
    check_looks(page, "runbook")
    check_silence_of_console(page)


def check_copies(page):
    origin = URL.rstrip("/")
    page.execute_cdp_cmd("Browser.grantPermissions", {"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    button = all_of(page, "#drawer button.copy")[0]
    button.click()
    wait_for(page, "the copy", lambda: button.text == "Copied")
    copied = page.execute_async_script("navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))")
    assert copied.startswith(f"varta-fleet explain {PIDS[0]}"), copied


def is_shown_without_scripts(page):
    assert text_of(page, "health") == "1 of 12 agents is stalled"
    assert str(PIDS[0]) in text_of(page, "stalled")
    numbers = [value.text for value in all_of(page, ".tile .value")][:3]
    assert numbers == ["11", "1", "0"], numbers
    for name in ["map", "search", "empty", "drawer"]:
        assert not page.find_element(By.ID, name).is_displayed(), name
    page.find_element(By.CSS_SELECTOR, "#observer summary").click()
    assert len(all_of(page, "#shards tr")) == 2
    return True


def check_without_scripts(page):
    page.get(URL)
    # It may load itself again in the middle of this.
    wait_for(page, "what is so", lambda: is_shown_without_scripts(page))
    page.save_screenshot(SHOTS / "without-scripts.png")
    os.kill(PIDS[0], signal.SIGCONT)
    # It looks again by itself.
    wait_for(page, "the resume", lambda: text_of(page, "health") == "All well: 12 agents beat")


def check_empty(page):
    page.get(URL)
    wait_for(page, "the headline", lambda: text_of(page, "health") == "No agent beats")
    lines = wait_for(page, "lines to paste", lambda: [line.text for line in all_of(page, "#empty .copied code")])
    assert lines[0].startswith("varta-fleet load --agents 12"), lines
    assert "varta.Varta.connect(" in lines[1], lines
    wait_for(page, "what happened", lambda: "the observer started with 2 shards" in text_of(page, "events"))
    check_looks(page, "empty")
    check_silence_of_console(page)


def check_hostile(page):
    page.get(URL)
    wait_for(page, "health", lambda: text_of(page, "health") == "All well: 5 agents beat")
    wait_for(page, "all groups", lambda: len(groups(page)) == 5)
    shown = " ".join(groups(page))
    # In names, what would end the line or turn the writing round is a question mark.
    for name in ["a?[31m?b", "<b>x<", "{{nonce}}", "?live", 'a "b" c']:
        assert name in shown, f"{name}: {shown}"
    assert not all_of(page, "main b b, .group b"), "a name is text"
    for pid in PIDS:
        os.kill(pid, signal.SIGSTOP)
    wait_for(page, "their rows", lambda: len(all_of(page, "#stalled tr.bad")) == 5)
    # A click on a group finds its agents, whatever is in the name.
    for button in all_of(page, ".group button"):
        button.click()
        wait_for(page, button.text, lambda: text_of(page, "drawer-title") == "1 agent")
        page.find_element(By.CSS_SELECTOR, "#drawer .close").click()
    check_looks(page, "hostile")
    for pid in PIDS:
        os.kill(pid, signal.SIGCONT)
    check_silence_of_console(page)


def is_grey(page):
    return page.find_element(By.ID, "main").value_of_css_property("filter") == "grayscale(1)"


def age(page):
    found = re.fullmatch(r"No answer\s+for (\d+)\ss", text_of(page, "headline"))
    return int(found[1]) if found else 0


def check_stale(page):
    observer, agent = PIDS
    page.get(URL)
    wait_for(page, "health", lambda: text_of(page, "health") == "All well: 3 agents beat")
    assert not is_grey(page)
    os.kill(observer, signal.SIGSTOP)
    try:
        wait_for(page, "its age", lambda: age(page) >= 9)
        wait_for(page, "the grey", lambda: is_grey(page))
        assert page.title == "! no answer", page.title
        before = age(page)
        wait_for(page, "a greater age", lambda: age(page) > before)
        check_looks_grey(page)
    finally:
        os.kill(observer, signal.SIGCONT)
    wait_for(page, "the answer", lambda: not is_grey(page) and "No answer" not in text_of(page, "headline"))
    # The observer recorded nothing meanwhile, so the lines have a gap.
    wait_for(page, "a gap", lambda: all_of(page, "#tile-up .line")[0].get_attribute("d").count("M") >= 2)
    # A computer that slept for an hour: the clock is ahead, and the stream is dead.
    os.kill(agent, signal.SIGKILL)
    page.execute_script("const now = Date.now; Date.now = () => now() + 3600e3; source.close();")
    wait_for(page, "what happened meanwhile", lambda: f"{agent} died by SIGKILL" in text_of(page, "events"))
    wait_for(page, "the headline of now", lambda: text_of(page, "health").startswith("1 of 3 agents died"))
    lines = [line.text for line in all_of(page, "#events > li")]
    assert sum("died by SIGKILL" in line for line in lines) == 1, lines


def check_units(page):
    page.get(URL)
    # Others may be in units, too: those of the machine that runs this test.
    scope = wait_for(page, "groups by unit", lambda: [text for text in groups(page) if text.startswith("varta-fleet-test-*")])
    assert scope == ["varta-fleet-test-*-*.scope 2"], scope
    assert [button.text for button in all_of(page, "#by [aria-checked=true]")] == ["Unit"]
    [group] = [button for button in all_of(page, ".group button") if button.text.startswith("varta-fleet-test-*")]
    group.click()
    wait_for(page, "the agents of both units", lambda: text_of(page, "drawer-title") == "2 agents")
    page.find_element(By.CSS_SELECTOR, "#drawer .close").click()
    box = page.find_element(By.ID, "q")
    for asked, title in [("fleet-test-", "2 agents"), (f"-{PIDS[1]}.sco", "1 agent"), (f"unit:*-{PIDS[0]}.scope", "1 agent"), ("x" * 600, "Nobody")]:
        box.clear()
        box.send_keys(asked)
        wait_for(page, asked, lambda: text_of(page, "drawer-title") == title and box.get_attribute("value") == asked)
    box.send_keys(Keys.ESCAPE)
    page.get(f"{URL}agents/{PIDS[0]}")
    wait_for(page, "its unit", lambda: f"-{PIDS[0]}.scope" in text_of(page, "drawer"))
    commands = [code.text for code in all_of(page, "#drawer .copied code")]
    assert any(re.fullmatch(rf"systemctl status varta-fleet-test-\d+-{PIDS[0]}\.scope", text) for text in commands), commands
    check_looks(page, "units")
    check_silence_of_console(page)


def check_frozen(page):
    page.get(URL)
    wait_for(page, "what is well", lambda: text_of(page, "health").startswith("All well"))
    wait_for(page, "the freeze", lambda: "frozen by its control group" in text_of(page, "events"))
    wait_for(page, "its cell", lambda: page.execute_script("return cells.filter(cell => cell.frozen).map(cell => cell.pid_from)") == PIDS)
    assert all_of(page, "#tile-stalled .value")[0].text == "0"
    page.find_element(By.ID, "map").send_keys(Keys.HOME)
    first = page.execute_script("return cells.findIndex(cell => cell.frozen)")
    page.find_element(By.ID, "map").send_keys(Keys.ARROW_RIGHT * first)
    wait_for(page, "its card", lambda: "frozen, which is no stall" in text_of(page, "cell"))
    page.get(f"{URL}agents/{PIDS[0]}")
    wait_for(page, "its verdict", lambda: "is frozen by its control group, which is no stall" in text_of(page, "drawer"))
    check_silence_of_console(page)


def check_acted(page):
    """What is done about an agent, what holds it back and what was found about it are facts of its drawer."""
    page.get(f"{URL}agents/{PIDS[0]}")
    wait_for(page, "its hold", lambda: f"actions for pid {PIDS[0]} for another 59m" in text_of(page, "drawer"))
    facts = wait_for(page, "its facts", lambda: dict(zip(
        [term.text for term in all_of(page, "#drawer .facts dt")], [fact.text for fact in all_of(page, "#drawer .facts dd")])))
    assert facts["Action"].startswith("restart is held: an operator holds it"), facts
    assert facts["Held"].endswith(": a <b>dump</b>"), facts
    assert re.search(r"/evidence-\d+\.json; varta-fleet explain sums it up$", facts["Evidence"]), facts
    commands = [code.text for code in all_of(page, "#drawer .copied code")]
    assert any(text.startswith("varta-fleet act list") for text in commands), commands
    events = text_of(page, "drawer")
    for part in ["action restart is due", "action restart is held: an operator holds it"]:
        assert part in events, f"{part}: {events}"
    check_looks(page, "acted")
    check_silence_of_console(page)


def check_daemon(page):
    """What a daemon says of itself is a fact of its drawer, as text."""
    page.get(f"{URL}agents/{PIDS[0]}")
    facts = wait_for(page, "its facts", lambda: dict(zip(
        [term.text for term in all_of(page, "#drawer .facts dt")], [fact.text for fact in all_of(page, "#drawer .facts dd")])))
    assert facts["Speaks"] == "sd_notify", facts
    assert facts["Says"] == "that it is up, that its name is one, \u201cServing <b>7</b> clients\u201d", facts
    assert facts["Stalls after"] == "3.00 s, which it asked for", facts
    page.get(f"{URL}agents/{PIDS[1]}")
    wait_for(page, "the other's facts", lambda: "no silence: it never sent a beat" in text_of(page, "drawer"))
    wait_for(page, "its events", lambda: "reloads" in text_of(page, "drawer"))
    check_looks(page, "daemon")
    check_silence_of_console(page)


def check_stuck(page):
    page.get(URL)
    wait_for(page, "health", lambda: text_of(page, "health").startswith("All well"))
    page.execute_script(WATCHED + "watchFrames();")
    print("shown", flush=True)
    wait_for(page, "what happened", lambda: "shard 0 failed: shard-stuck" in text_of(page, "events"))
    # An observer that cannot observe ends, for somebody to start it anew.
    wait_for(page, "the end", lambda: text_of(page, "health") == "No answer" and is_grey(page))
    frames = page.execute_script("return seen")
    said = list(dict.fromkeys(frame["health"] for frame in frames))
    assert said[0].startswith("All well") and said[-1] == "No answer", said
    wait_for(page, "what happened last", lambda: "the observer stopped" in text_of(page, "events"))


WATCHED = """
const real = Date.now, first = real();
window.ahead = 0;
Date.now = () => real() + ahead;
window.seen = [];
window.watchFrames = () => {
  const shown = { health: $("health").textContent, isGrey: document.documentElement.classList.contains("stale") };
  seen.push(shown);
  requestAnimationFrame(watchFrames);
};
"""


def check_asleep(page):
    """In a tab behind another the page asks nothing. Whoever comes back sees no frame of what was as if it were."""
    observer, agent = PIDS
    page.get(URL)
    wait_for(page, "health", lambda: text_of(page, "health") == "All well: 3 agents beat")
    page.execute_script(WATCHED)
    mine = page.current_window_handle

    def sleep(while_away):
        page.switch_to.new_window("tab")
        while_away()
        page.close()
        page.switch_to.window(mine)
        wait_for(page, "the page to be in front", lambda: not page.execute_script("return document.hidden"))

    # As the page is hidden, the hour passes; as it is shown, each frame is noted.
    page.execute_script("""
      document.addEventListener("visibilitychange", () => {
        if (document.hidden) { ahead += 3600e3; }
        else { window.seen = []; requestAnimationFrame(watchFrames); }
      }, { capture: true });
    """)

    def dies():
        os.kill(agent, signal.SIGKILL)

    sleep(dies)
    wait_for(page, "the headline of now", lambda: text_of(page, "health").startswith("1 of 3 agents died"))
    frames = page.execute_script("return seen")
    old = [frame for frame in frames if frame["health"].startswith("All well") and not frame["isGrey"]]
    assert frames and not old, frames
    assert not any("No answer" in frame["health"] for frame in frames), "the observer did answer"
    wait_for(page, "what happened meanwhile", lambda: f"{agent} died by SIGKILL" in text_of(page, "events"))
    assert not is_grey(page)
    # Once more, with nobody there who answers.
    sleep(lambda: os.kill(observer, signal.SIGSTOP))
    try:
        wait_for(page, "the grey", lambda: is_grey(page))
        frames = page.execute_script("return seen")
        assert all(frame["isGrey"] for frame in frames), frames
        wait_for(page, "its age", lambda: re.fullmatch(r"No answer\s+for 1h.*", text_of(page, "headline")))
    finally:
        os.kill(observer, signal.SIGCONT)
    wait_for(page, "the answer", lambda: not is_grey(page))
    check_silence_of_console(page)


def check_clock(page):
    """Ages are those of the observer: a step of the clock here, either way, is no age."""
    page.get(URL)
    wait_for(page, "health", lambda: text_of(page, "health") == "All well: 3 agents beat")
    page.execute_script(WATCHED)
    for ahead in [-3600e3, 3600e3, 0]:
        page.execute_script("ahead = arguments[0]", ahead)
        seen = page.execute_script("return fleet.mono_ns")
        wait_for(page, "the next answers", lambda: page.execute_script("return fleet.mono_ns") - seen > 2e9)
        wait_for(page, "an answer that is not old", lambda: not is_grey(page))
        assert text_of(page, "health") == "All well: 3 agents beat"
        shown = page.execute_script("return samples.size")
        assert 0 < shown <= 900, shown
    os.kill(PIDS[0], signal.SIGSTOP)
    page.execute_script("ahead = -7200e3")
    wait_for(page, "the stall", lambda: "1 of 3 agents is stalled" == text_of(page, "health"))
    since = wait_for(page, "since when", lambda: re.search(r"Silent since \d\d:\d\d:\d\d, (\d+)\ss ago", text_of(page, "context")))
    assert int(since[1]) < 60, since[0]
    os.kill(PIDS[0], signal.SIGCONT)
    wait_for(page, "the end of it", lambda: text_of(page, "health") == "All well: 3 agents beat")
    check_silence_of_console(page)


CROWD = """
const real = get, group = i => ({ name: "group-" + "abcdefghij"[i % 10] + "-of-a-unit-with-a-long-name-" + i + ".service", agents: 1, stalled: i < 3 ? 1 : 0, cells: 1 });
const cell = i => ({ pid_from: i + 1, pid_to: i + 1, agents: 1, stalled: i < 3 ? 1 : 0, frozen: 0, waiting: 0, silent_permille: 100, shard: 0 });
const rest = Array.from({ length: 495 }, (_, i) => ({ pid_from: 101 + i * 20, pid_to: 120 + i * 20, agents: 20, stalled: 0, frozen: 0, waiting: 0, silent_permille: 100 }));
get = path => path.startsWith("/api/v1/cells") ? Promise.resolve({
  by: "unit", agents_per_cell: 20, as_of: [0],
  groups: [...Array.from({ length: 100 }, (_, i) => group(i)), { name: null, agents: 9900, stalled: 0, cells: 495 }],
  cells: [...Array.from({ length: 100 }, (_, i) => cell(i)), ...rest],
}) : real(path);
"""


def check_crowd(page):
    """The answer for ten thousand groups, as the observer's own test has it."""
    page.get(URL)
    wait_for(page, "health", lambda: text_of(page, "health").startswith("All well"))
    page.execute_script(CROWD)
    page.execute_script("refresh()")
    wait_for(page, "all groups", lambda: len(groups(page)) == 101)
    assert groups(page)[-1] == "all others 9900", groups(page)[-1]
    assert "10.0k agents" in page.find_element(By.ID, "heat-title").text
    assert not all_of(page, ".group button")[-1].is_enabled(), "nothing asks for all others"
    for width in WIDTHS:
        look_like(page, "light", width)
        tall = page.find_element(By.ID, "map").size["height"]
        assert tall <= 900, f"{tall} pixels of map on a screen {width} wide"
    page.find_element(By.ID, "map").send_keys(Keys.END)
    wait_for(page, "the card", lambda: "all others" in text_of(page, "cell"))
    page.find_element(By.TAG_NAME, "body").click()
    check_looks(page, "crowd")
    check_silence_of_console(page)


def check_looks_grey(page):
    for theme, width in [("light", 1400), ("dark", 390)]:
        look_like(page, theme, width)
        page.save_screenshot(SHOTS / f"stale-{theme}-{width}.png")
    look_like(page, "light", 1400)


CHECKS = {
    "live": check_live,
    "wave": check_wave,
    "without-scripts": check_without_scripts,
    "empty": check_empty,
    "hostile": check_hostile,
    "stale": check_stale,
    "units": check_units,
    "frozen": check_frozen,
    "acted": check_acted,
    "daemon": check_daemon,
    "stuck": check_stuck,
    "asleep": check_asleep,
    "clock": check_clock,
    "crowd": check_crowd,
}


def main():
    SHOTS.mkdir(parents=True, exist_ok=True)
    page = browser(scripts=CHECK != "without-scripts")
    try:
        page.set_script_timeout(SOON)
        CHECKS[CHECK](page)
    except BaseException:
        page.save_screenshot(SHOTS / f"failed-{CHECK}.png")
        raise
    finally:
        page.quit()


main()
