"""The playground in a real browser: drawn on, looked at, and asked by keyboard."""

import io
import json
import math
import shutil
import time
import urllib.request

import numpy as np
import pytest

from tests.e2e.conftest import serve

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow, pytest.mark.openvino]

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

# Strokes in shares of the field.
SEVEN = [[(0.27, 0.22), (0.73, 0.22), (0.42, 0.82)]]
ZERO = [
    [
        (0.5 + 0.2 * math.sin(angle / 8 * math.pi), 0.5 - 0.3 * math.cos(angle / 8 * math.pi))
        for angle in range(17)
    ]
]
CROSS = [[(0.17, 0.17), (0.83, 0.83)], [(0.83, 0.17), (0.17, 0.83)]]
RING = [
    [(0.28, 0.17), (0.72, 0.17)],
    [(0.28, 0.83), (0.72, 0.83)],
    [(0.17, 0.28), (0.17, 0.72)],
    [(0.83, 0.28), (0.83, 0.72)],
]


@pytest.fixture(scope="module")
def server(published, published_xo, tmp_path_factory):
    """LeNet-5 in two versions, and xo."""
    place = tmp_path_factory.mktemp("playground")
    base_path = place / "models"
    shutil.copytree(published.base_path / published.model, base_path / published.model)
    shutil.copytree(published_xo.base_path / "xo", base_path / "xo")
    with serve(base_path, place) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here; Debian's is `apt-get install chromium`")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                # A moving picture of the browser's own stands for the camera; a context must still
                # be allowed to use it.
                "--use-fake-device-for-media-stream",
            ],
        )
        yield running
        running.close()


@pytest.fixture
def page(browser, server):
    """A page of its own; whatever its console complains of fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    made = context.new_page()
    made.set_default_timeout(30_000)
    complaints = []
    made.on("console", lambda line: complaints.append(line.text) if line.type != "log" else None)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.complaints = complaints
    made.forgiven = None  # the status that a test lets the server answer
    made.foreign = []
    made.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith((server.url, "data:", "blob:"))
            else made.foreign.append(asked.url)
        ),
    )
    yield made
    context.close()
    assert [each for each in complaints if not made.forgiven or made.forgiven not in each] == []
    assert made.foreign == []


ANSWER = {
    "model": "xo",
    "version": 1,
    "results": [[{"class_id": 0, "label": "X", "probability": 1.0}]],
    "timings": {"decode_s": 0, "queue_s": 0, "execute_s": 0},
}


def open_page(page, server, model="lenet5_modern", **more):
    query = "&".join(f"{name}={value}" for name, value in {"model": model, **more}.items())
    page.goto(f"{server.url}/playground/?{query}")
    page.wait_for_selector("html[data-ready]")


def draw(page, strokes):
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=4)
        page.mouse.up()


def wait_until_answered(page):
    """Waits until what is shown answers what is drawn: nothing more will be asked."""
    page.wait_for_selector(".answers:not([data-stale])")


def wait_for_label(page, label, which="first"):
    page.wait_for_selector(f'#answer-{which}[data-label="{label}"]')


def wait_for_text(page, selector, text):
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text, timeout=30_000)


def test_a_drawn_digit_gives_its_label_and_every_panel_fills(page, server):
    open_page(page, server)
    draw(page, ZERO)
    wait_for_label(page, "0")
    wait_for_text(page, "#answer-first", "version 1")
    wait_for_text(page, "#answer-first", "ms there and back")
    assert page.locator("#answer-first tr").count() == 10
    wait_for_text(page, "#seen-text", "32\u00d732\u00d71, values -0.10 to")
    for layer, count in (("c1", 6), ("c3", 16), ("logits", 10)):
        assert page.locator(f'details[data-layer="{layer}"] button').count() == count
    wait_for_text(page, "#overlay-text", "0 has probability")
    ink = page.evaluate(
        """() => { const c = document.getElementById("overlay");
        return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 < 3 && v > 200); }"""
    )
    assert ink


def test_a_screen_reader_hears_the_last_answer(page, server):
    told = []

    def answer(route):
        told.append(len(told) + 1)
        first = {"class_id": 0, "label": "zero", "probability": told[-1] / 100}
        route.fulfill(json={**ANSWER, "results": [[first]]})

    page.route("**/classify*", answer)
    open_page(page, server)
    for _ in range(4):
        page.click("#pad")
        wait_until_answered(page)
    wait_for_text(page, "#spoken", f"zero, {len(told)} percent")


def test_a_click_on_a_map_shows_the_units_patch_weights_and_arithmetic(page, server):
    open_page(page, server)
    draw(page, ZERO)
    wait_for_label(page, "0")
    page.locator('details[data-layer="c3"] .strip canvas').nth(2).click(position={"x": 30, "y": 30})
    wait_for_text(page, "#unit-line", "150 products sum to")
    assert page.locator("#unit-work table.numbers").count() == 3
    assert page.locator("#unit-work td").count() == 75
    # The sum that is shown is the one the numbers give: tanh of it is the value.
    words = page.locator("#unit-line").inner_text().replace(";", "").split()
    before, value = float(words[words.index("tanh") - 1]), float(words[-1].rstrip("."))
    assert math.tanh(before) == pytest.approx(value, abs=2e-4)
    page.locator('details[data-layer="logits"] .units button').nth(4).click()
    wait_for_text(page, "#unit-line", "84 products sum to")
    page.fill("#unit-channel", "7")
    page.locator("#unit-channel").blur()
    page.wait_for_timeout(200)
    assert page.locator("#unit-channel").input_value() == "7"


def test_a_photograph_of_the_camera_is_classified(page, server):
    page.context.grant_permissions(["camera"], origin=server.url)
    open_page(page, server)
    page.click("#camera")
    page.wait_for_selector("#shoot", state="visible")
    page.wait_for_function("document.getElementById('video').videoWidth > 0")
    page.click("#shoot")
    page.wait_for_selector("#pad", state="visible")
    page.wait_for_selector("#answer-first[data-label]")
    shades = page.evaluate(
        """() => { const c = document.getElementById("pad");
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        return new Set(d.filter((_, i) => i % 4 === 1)).size; }"""
    )
    assert shades > 10
    # The camera is off again.
    assert page.evaluate("document.getElementById('video').srcObject.active") is False


def test_a_camera_that_is_not_allowed_is_explained(page, server):
    open_page(page, server)
    page.click("#camera")
    wait_for_text(page, "body", "The camera cannot be used")
    assert page.locator("#pad").is_visible()


def test_grad_cam_is_laid_over_the_image(page, server):
    open_page(page, server)
    draw(page, ZERO)
    wait_for_label(page, "0")
    page.select_option("#method", "grad_cam")
    page.select_option("#target", "3")
    page.click("#run")
    wait_for_text(page, "#overlay-text", "3 · s4: the largest value is")


def test_two_versions_answer_side_by_side(page, server):
    open_page(page, server)
    page.select_option("#second", label="xo 1")
    draw(page, ZERO)
    wait_for_label(page, "0")
    page.wait_for_selector("#answer-second[data-label]")
    wait_for_text(page, "#answer-second", "xo · version 1")
    wait_for_text(page, "#answer-second", "ms there and back")


def test_what_is_chosen_outlives_a_reload(page, server):
    open_page(page, server, language="en")
    page.select_option("#first", label="xo 1")
    page.select_option("#second", label="lenet5_modern 1")
    page.select_option("#language", "zh")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    chosen = [page.locator(f"#{each} option:checked") for each in ("first", "second", "language")]
    assert [each.inner_text() for each in chosen] == ["xo 1", "lenet5_modern 1", "中文"]


def test_the_trace_of_xo_is_played_step_by_step(page, server):
    open_page(page, server, "xo")
    draw(page, CROSS)
    wait_for_label(page, "X")
    page.click("#clear")
    draw(page, RING)
    wait_for_label(page, "O")
    page.click("#trace-run")
    wait_for_text(page, "#trace", "Step 1 of 6")
    page.locator("#trace button", has_text="Next").click()
    wait_for_text(page, ".trace-line", "9 products sum to")
    wait_for_text(page, ".trace-line", "divided by 9")
    page.keyboard.press("ArrowRight")
    wait_for_text(page, ".trace-line", "relu makes")
    page.keyboard.press("ArrowRight")
    wait_for_text(page, ".trace-line", "The largest of")
    page.locator("#trace button", has_text="Play").click()
    wait_for_text(page, ".trace-title", "logits")
    wait_for_text(page, ".trace-line", "48 votes sum to")


def test_a_drawing_can_be_made_and_cleared_with_keys_alone(page, server):
    open_page(page, server)
    page.focus("#pad")
    for key in ("ArrowUp",) * 8 + (" ",) + ("ArrowDown",) * 16:
        page.keyboard.press(key)
    page.wait_for_selector("#answer-first[data-label]")
    page.keyboard.press("Delete")
    page.wait_for_selector("#answer-first .best", state="detached")


def test_an_image_is_opened_dropped_and_pasted(page, server, published):
    image = sorted((published.run / "holdout").glob("*_0.png"))[0]
    open_page(page, server)
    page.set_input_files("#file", image)
    wait_for_label(page, "0")
    as_event = """([bytes, kind]) => {
      const file = new File([new Uint8Array(bytes)], "digit.png", { type: "image/png" });
      const data = new DataTransfer(); data.items.add(file);
      if (kind === "drop") document.getElementById("drop").dispatchEvent(
        new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
      else document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
    }"""
    for kind in ("drop", "paste"):
        page.click("#clear")
        page.wait_for_selector("#answer-first .best", state="detached")
        page.evaluate(as_event, [list(image.read_bytes()), kind])
        page.wait_for_selector("#answer-first .best")
        wait_for_label(page, "0")


def sent(page, act):
    """What the page asks the network to classify next; the browser does not tell of blobs."""
    page.evaluate(
        """() => { window.plain ??= window.fetch; window.sent = null;
        window.fetch = async (path, options) => {
          if (String(path).includes("/classify")) {
            window.sent ??= Array.from(new Uint8Array(await options.body.arrayBuffer()));
          }
          return window.plain(path, options);
        }; }"""
    )
    act()
    # The page's policy forbids what `wait_for_function` would do.
    return bytes(
        page.evaluate(
            """async () => {
            while (!window.sent) await new Promise((resolve) => setTimeout(resolve, 20));
            return window.sent; }"""
        )
    )


def test_an_opened_file_is_sent_as_it_is_until_it_is_drawn_on(page, server, published):
    open_page(page, server)
    assert page.is_checked("#centre")
    for image in sorted((published.run / "holdout").glob("*.png"))[:4]:
        assert sent(page, lambda image=image: page.set_input_files("#file", image)) == (
            image.read_bytes()
        )
        wait_until_answered(page)
    image = image.read_bytes()
    body = sent(page, lambda: draw(page, [[(0.5, 0.5), (0.5, 0.6)]]))
    assert body != image


@pytest.mark.parametrize(
    ("framing", "size", "ink"),
    [
        (None, (8, 8), (0, 8)),  # what the server tells of scikit-learn's digits
        ({"field": 28, "box": 20, "is_by_mass": True}, (28, 28), (4, 24)),
    ],
)
def test_a_drawing_is_framed_as_the_digits_that_the_network_learned(
    page, server, framing, size, ink
):
    from PIL import Image

    def told(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "framing": framing})

    if framing is not None:
        page.route("**/layers", told)
    open_page(page, server)
    page.uncheck("#centre")
    draw(page, [[(0.2, 0.1), (0.2, 0.4)]])
    page.wait_for_selector("#answer-first[data-label]")
    wait_until_answered(page)
    body = sent(page, lambda: page.check("#centre"))
    pixels = np.asarray(Image.open(io.BytesIO(body)).convert("L"))
    assert pixels.shape == size
    rows = np.flatnonzero(pixels.max(1) > 64)
    assert (rows[0], rows[-1] + 1) == pytest.approx(ink, abs=1)


@pytest.fixture
def without_layers(page):
    """xo says nothing of its layers."""
    page.route(
        "**/api/models/xo/**/layers",
        lambda route: route.fulfill(status=501, json={"error": "It says nothing of its layers."}),
    )
    page.forgiven = "501"


def test_a_network_without_layers_is_still_asked_for_its_answer(page, server, without_layers):
    open_page(page, server, "xo")
    # The server itself takes images of 9 x 9 pixels alone.
    page.route("**/api/models/xo/**/classify*", lambda route: route.fulfill(json=ANSWER))
    draw(page, CROSS)
    wait_for_label(page, "X")
    assert page.is_disabled("#run")
    assert page.is_disabled("#method")
    assert page.is_hidden("#maps")
    wait_for_text(page, "#overlay-text", "says nothing of its layers")
    page.evaluate("for (const each of ['method', 'run']) "
                  "document.getElementById(each).dispatchEvent(new Event('change'))")  # fmt: skip
    page.select_option("#language", "zh")
    wait_for_text(page, "#overlay-text", "只能得到答案")
    assert page.locator("#alert").inner_text() == ""
    page.select_option("#first", label="lenet5_modern 1")
    page.wait_for_selector("#maps details")
    assert page.is_visible("#maps")
    page.wait_for_selector("#run:enabled")  # an explanation under way closes it for a moment


def test_no_answer_of_another_network_stays_beside_one_that_has_none(page, server, without_layers):
    open_page(page, server)
    draw(page, ZERO)
    wait_for_label(page, "0")
    wait_for_text(page, "#seen-text", "values")
    page.route(
        "**/api/models/xo/**/classify*",
        lambda route: route.fulfill(status=501, json={"error": "Send it tensors."}),
    )
    page.select_option("#first", label="xo 1")
    wait_for_text(page, "#alert", "Send it tensors.")
    assert page.locator("#answer-first").inner_text() == ""
    assert page.is_hidden("#looks")


def test_a_version_that_takes_over_is_found_by_a_page_that_is_open(page, published, tmp_path):
    base_path = tmp_path / "models"
    model = base_path / published.model
    shutil.copytree(published.base_path / published.model, model)
    with serve(base_path, tmp_path, "--poll-interval-s", "0.2") as running:
        page.forgiven = "404"
        page.goto(f"{running.url}/playground/")
        page.wait_for_selector("html[data-ready]")
        shutil.copytree(model / "1", tmp_path / "2")
        shutil.move(tmp_path / "2", model / "2")
        wait_for_version(running, published.model, 2)
        draw(page, ZERO)
        wait_for_text(page, "#answer-first", "version 2")
        assert page.locator("#first option").all_inner_texts() == [f"{published.model} 2"]
        wait_for_text(page, "#alert", "")
        page.goto("about:blank")  # before its server goes
        page.foreign.clear()


def wait_for_version(server, model, version):
    """Waits until it is the only one that is served."""
    for _ in range(300):
        with urllib.request.urlopen(f"{server.url}/v1/models/{model}") as answer:
            told = json.load(answer)["model_version_status"]
        served = [each["version"] for each in told if each["state"] == "AVAILABLE"]
        if served == [str(version)]:
            return
        time.sleep(0.1)
    raise AssertionError(told)


def test_what_an_empty_field_lacks_is_forgotten_once_something_is_drawn(page, server):
    open_page(page, server)
    page.click("#trace-run")
    wait_for_text(page, "#alert", "Draw something first.")
    page.forgiven = "429"
    page.route("**/classify*", lambda route: route.fulfill(status=429, json={"error": "Too many."}))
    draw(page, ZERO)
    wait_for_text(page, "#alert", "Too many.")
    assert "first" not in page.locator("#alert").inner_text()


def test_what_goes_wrong_is_said(page, server, tmp_path):
    open_page(page, server)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    page.set_input_files("#file", broken)
    wait_for_text(page, "#alert", "no image that the browser can read")
    page.route("**/classify*", lambda route: route.fulfill(status=429, json={"error": "Too many."}))
    draw(page, SEVEN)
    wait_for_text(page, "#alert", "Too many.")
    assert page.locator(".answers[data-stale]").count() == 1
    page.unroute("**/classify*")
    draw(page, SEVEN)
    wait_for_text(page, "#alert", "")
    wait_until_answered(page)
    page.complaints[:] = [each for each in page.complaints if "429" not in each]


def test_a_complaint_leaves_the_field_where_it_is_and_goes_with_what_it_is_about(page, server):
    from playwright.sync_api import expect

    open_page(page, server)
    draw(page, ZERO)
    wait_for_text(page, "#seen-text", "values")
    place = page.locator("#pad").bounding_box()
    page.forgiven = "400"
    damaged = "It is damaged."
    first = f"Image 0: {damaged}"
    page.route("**/classify*", lambda route: route.fulfill(status=400, json={"error": first}))
    page.route("**/explain*", lambda route: route.fulfill(status=400, json={"error": damaged}))
    page.click("#pad")
    expect(page.locator("#alert")).to_have_text(damaged)
    assert page.locator("#pad").bounding_box() == place
    page.click("#clear")
    expect(page.locator("#alert")).to_have_text("")
    expect(page.locator("#seen-text")).to_have_text("")


def test_what_is_drawn_while_a_look_inside_fails_is_looked_at_afterwards(page, server):
    page.forgiven = "429"
    held = []
    page.route(
        "**/explain?method=input",
        lambda route: route.continue_() if held else held.append(route),
    )
    open_page(page, server)
    page.click("#pad")
    wait_until_answered(page)
    while not held:
        page.wait_for_timeout(20)
    draw(page, ZERO)
    held[0].fulfill(status=429, json={"error": "Too many."})
    wait_for_text(page, "#seen-text", "values")


def test_an_image_that_can_be_seen_through_lies_on_black(page, server, tmp_path):
    from PIL import Image

    Image.new("RGBA", (16, 16), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    open_page(page, server)
    draw(page, ZERO)
    page.set_input_files("#file", tmp_path / "clear.png")
    wait_for_text(page, "#seen-text", "-0.10 to -0.10")
    assert not page.evaluate(
        """() => { const c = document.getElementById("pad");
        return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 < 3 && v); }"""
    )


def test_the_page_speaks_chinese_and_wears_dark(page, server):
    open_page(page, server)
    draw(page, ZERO)
    wait_for_label(page, "0")
    page.select_option("#language", "zh")
    page.select_option("#theme", "dark")
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    assert page.locator("#input-title").inner_text().startswith("画一张")
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(13, 17, 23)"
    missing = page.evaluate(
        """async () => { const { WORDS } = await import("/playground/words.js");
        const { TRACE_WORDS } = await import("/playground/trace.js");
        const keys = (words) => Object.keys(words).sort().join();
        return keys(WORDS.en) === keys(WORDS.zh) && keys(TRACE_WORDS.en) === keys(TRACE_WORDS.zh); }"""
    )
    assert missing is True
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_a_phone_shows_the_field_and_the_answer_on_one_screen(page, server):
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, server)
    assert page.is_hidden("#looks")
    draw(page, ZERO)
    wait_for_label(page, "0")
    assert page.evaluate("scrollY") == 0
    best = page.locator("#answer-first .best").bounding_box()
    assert best["y"] + best["height"] <= 844


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_screens_of_every_width(page, server, width):
    page.set_viewport_size({"width": width, "height": 800})
    open_page(page, server)
    draw(page, ZERO)
    wait_for_label(page, "0")
    page.locator('details[data-layer="c3"] .strip button').first.click()
    wait_for_text(page, "#unit-line", "products")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


LONG = [
    "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias",
    "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch-station",
]


@pytest.mark.parametrize("width", [375, 1280])
def test_long_labels_break_and_their_percentages_do_not(page, server, width):
    def renamed(route):
        answer = route.fetch(url=route.request.url.replace(LONG[1], "5"))
        text = answer.text()
        for digit, label in zip("05", LONG, strict=True):
            text = text.replace(f'"{digit}"', f'"{label}"')
        route.fulfill(response=answer, body=text)

    for part in ("layers", "classify*", "explain*"):
        page.route(f"**/{part}", renamed)
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, server)
    draw(page, ZERO)
    page.wait_for_selector("#answer-first .best")
    page.select_option("#target", LONG[1])
    wait_for_text(page, "#overlay-text", "probability")
    page.click("#run")
    wait_for_text(page, "#overlay-text", LONG[1])
    page.click("#trace-run")
    for _ in range(8):
        page.locator("#trace button", has_text="Next").click()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    lines = page.evaluate(
        """() => [...document.querySelectorAll("table.top td:last-child")]
        .map((each) => { const range = document.createRange(); range.selectNodeContents(each);
          return new Set([...range.getClientRects()].map((box) => box.top)).size; })"""
    )
    assert set(lines) == {1}
    assert overflowing(page) == []


def overflowing(page):
    """What reaches beyond the panel that it stands in, by a pixel or more."""
    return page.evaluate(
        """() => [...document.querySelectorAll("section")].flatMap((panel) => {
        const right = panel.getBoundingClientRect().right;
        return [...panel.querySelectorAll("select, label, figcaption, td, button, h3, p")]
          .filter((each) => each.getBoundingClientRect().right > right + 1
            && !each.closest(".trace-work, .trace-maps figure"))
          .concat([...panel.querySelectorAll("figcaption, button")]
            .filter((each) => each.scrollWidth > each.clientWidth + 1))
          .map((each) => each.outerHTML.slice(0, 120)); })"""
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_accessibility_problem(page, server, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    open_page(page, server, "xo")
    page.select_option("#theme", theme)
    draw(page, CROSS)
    wait_for_label(page, "X")
    page.click("#trace-run")
    page.locator("#trace button", has_text="Next").click()
    page.locator('details[data-layer="conv1"] .strip button').first.click()
    wait_for_text(page, "#unit-line", "products")
    page.wait_for_timeout(300)
    response = axe.Axe().run(page).response
    assert len(response["passes"]) > 15
    found = response["violations"]
    serious = [
        (each["id"], [node["html"][:160] for node in each["nodes"]][:4])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
