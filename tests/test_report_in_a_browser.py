"""The report's page in a real browser: no network, no complaint, readable on a phone, whole on A4, heard as seen.

The browser is the Chromium that is installed; where there is none, these tests are skipped.
"""

import re
import shutil
from itertools import pairwise

import pytest
from audited_withdrawals import audited
from playwright.sync_api import sync_playwright
from report_pages import sample, written

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
]
A4 = (210 / 25.4 * 72, 297 / 25.4 * 72)  # points
PRINTED_WIDTH = round((210 - 2 * 15) / 25.4 * 96)  # CSS pixels between the page's margins
LEAST_PX = 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed; on Debian: apt-get install chromium"),
]


def mixed():
    """Return a run in which every kind of withdrawal occurs: certified, failed, open, pending, not audited."""
    result = sample(devices=24, withdrawals=7)
    rows = result["withdrawals"]
    rows[1] = audited(rows[1], means=(2.6, 2.6, 2.6))
    rows[3] = audited(rows[3], exact=False, copies=143)
    rows[4] |= {"verdict": None, "certificate": None}
    rows[5] = audited(rows[5], exact=False, means=(0.4, 1.9, 1.5))
    rows[6] |= {"unlearned_at": None, "verdict": None, "certificate": None, "methods": [], "served": ""}
    return result


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), mixed())[0].as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def opened(browser, address):
    """Return what opens the page; afterwards nothing may have been fetched and nothing complained of."""
    asked, said, contexts = [], [], []

    def let(route):
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    def show(width=1200, height=900, **more):
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **more)
        contexts.append(context)
        context.route("**/*", let)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        return page

    yield show
    for context in contexts:
        context.close()
    assert asked == []
    assert said == []


SMALL_TEXT = """least => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const holder = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !holder.getClientRects().length) continue;
    const drawing = holder.closest('svg');
    const onto = drawing ? holder.getScreenCTM() : {a: 1, b: 0};
    const size = parseFloat(getComputedStyle(holder).fontSize) * Math.hypot(onto.a, onto.b);
    if (size < least - 0.05) found.push(size.toFixed(1) + ' px: ' + walker.currentNode.data.trim().slice(0, 40));
  }
  return found;
}"""

# What sticks out of the window and is not in something that scrolls by itself.
STICKING_OUT = """width => [...document.querySelectorAll('body *')].filter(one => {
  const box = one.getBoundingClientRect();
  const moved = getComputedStyle(one).position === 'absolute';
  return box.width && !moved && (box.right > width + 1 || box.left < -1) && !one.closest('.scroll');
}).map(one => one.tagName + ' ' + (one.textContent || '').trim().slice(0, 40))"""

FAINT = """() => {
  const value = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = one => { for (; one; one = one.parentElement) { const c = value(getComputedStyle(one).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const found = [];
  const told = 'p, li, td, th, dt, dd, h1, h2, h3, h4, h5, a, code, figcaption, .badge';
  for (const one of document.querySelectorAll(told)) {
    if (!one.getClientRects().length || !one.textContent.trim()) continue;
    const pair = [light(value(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
    const contrast = (pair[0] + .05) / (pair[1] + .05);
    if (contrast < 4.5) found.push(contrast.toFixed(2) + ' ' + one.textContent.trim().slice(0, 40));
  }
  return found;
}"""


def test_it_renders_with_the_network_refused_and_without_a_complaint(opened):
    page = opened()
    assert page.locator("article.withdrawal").count() == 7
    assert page.locator("article svg.strips").count() == 5
    assert page.locator("h1").inner_text() == "Seven of 24 patients withdrew."


@pytest.mark.parametrize("width", [360, 768, 1200, 1600])
def test_nothing_overflows_and_no_letter_is_too_small(opened, width):
    page = opened(width=width)
    across = "[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
    wide, window = page.evaluate(across)
    assert wide <= window
    assert page.evaluate(STICKING_OUT, width) == []
    assert page.evaluate(SMALL_TEXT, LEAST_PX) == []


def test_the_picture_s_dots_and_names_lie_inside_it_on_a_phone(opened):
    page = opened(width=360)
    outside = page.evaluate("""() => [...document.querySelectorAll('svg.strips')].flatMap(drawing => {
      const frame = drawing.getBoundingClientRect();
      return [...drawing.querySelectorAll('circle, text, line')].filter(one => {
        const box = one.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
      }).map(one => one.outerHTML);
    })""")
    assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_stand_out_from_their_ground(opened, scheme):
    assert opened(color_scheme=scheme).evaluate(FAINT) == []


def test_it_prints_on_a4_and_nothing_is_cut(opened, tmp_path):
    page = opened(width=PRINTED_WIDTH)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = false)")
    printed = page.pdf(format="A4", path=tmp_path / "page.pdf")
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", printed)
    assert 15 <= len(boxes) <= 45
    assert all(abs(float(size) - whole) < 1 for box in boxes for size, whole in zip(box, A4, strict=True))
    page.emulate_media(media="print")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PRINTED_WIDTH
    too_wide = "() => [...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth + 1).length"
    assert page.evaluate(too_wide) == 0
    assert page.locator(".appendix table").first.is_visible()  # paper shows what a screen folds away


def test_it_can_be_read_by_ear_and_by_keyboard(opened):
    page = opened()
    assert page.locator("html").get_attribute("lang") == "en"
    assert re.match(r"Lethe, run \S+", page.title())
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("svg:not([aria-hidden]):not([aria-label])").count() == 0
    assert page.locator("main").count() == 1
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = false)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the report"
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None


def test_every_table_that_scrolls_is_named_and_reached_by_keyboard(opened):
    page = opened(width=360)
    regions = page.locator(".scroll")
    assert regions.count() > 10
    assert all(
        regions.nth(place).get_attribute("aria-label") and regions.nth(place).get_attribute("tabindex") == "0"
        for place in range(regions.count())
    )
    names = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby]')].map(one => one.getAttribute('aria-labelledby'))"
    )
    assert all(page.locator(f'[id="{name}"]').count() == 1 for name in names)
