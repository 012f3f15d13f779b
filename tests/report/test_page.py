"""The report as a person opens it: in a browser, from a file, with the counts of the JSON behind it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import call, refused
from PIL import Image

from plgen_ddp.evaluation import evaluate
from plgen_ddp.manifest import Manifest
from plgen_ddp.records import RankSummary, Regions, Similarity
from plgen_ddp.report.label_file import read_label_file
from plgen_ddp.report.page_data import above, make_tables, threshold_grid
from plgen_ddp.report.words import facts_of, threshold_in_words
from plgen_ddp.store import RegionStore
from plgen_ddp.summaries import print_scoring

EVIL = "<script>document.title='broken in'</script>-->"
NAMES = ["cat", EVIL, "dog #010203 1.23456"]
WIDTH, HEIGHT = 160, 120


def draw_images(folder, count, colour=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        shade = np.full((HEIGHT, WIDTH, 3), (number * 3 % 200, 90, 120 + colour), np.uint8)
        Image.fromarray(shade).save(folder / f"{number}.jpg")


def write_labels(path, images, *, seed=0, low=0.4, names=NAMES, files=80):
    """A labelled JSON as this package writes it, and the ground truth beside it; some labels are on its objects."""
    rng = np.random.default_rng(seed)
    categories = [{"id": 10 + place, "name": name} for place, name in enumerate([*names, "table"])]
    rows = [
        {"id": n, "file_name": f"{(n - 1) % files + 1}.jpg", "width": WIDTH, "height": HEIGHT}
        for n in range(1, images + 1)
    ]
    truth, labels = [], []
    for image in rows:
        for _ in range(int(rng.integers(0, 4))):
            category = int(rng.integers(10, 10 + len(names)))
            box = [*rng.uniform(0, 60, 2).round(2).tolist(), *rng.uniform(20, 50, 2).round(2).tolist()]
            truth.append({"id": len(truth) + 1, "image_id": image["id"], "category_id": category, "bbox": box})
            if rng.random() < 0.7:
                other = category if rng.random() < 0.8 else 10
                labels.append((image["id"], other, [box[0] + 1, *box[1:]], rng.uniform(low, 1)))
        if rng.random() < 0.3:
            labels.append((image["id"], 10, [100.0, 80.0, 30.0, 30.0], float(rng.uniform(low, 0.9))))
    base = [
        {"id": 9000 + image["id"], "image_id": image["id"], "category_id": 10 + len(names), "bbox": [100, 80, 30, 31]}
        for image in rows[::2]
    ]
    pseudo = [
        {"id": -1 - n, "image_id": i, "category_id": c, "bbox": b, "confidence": float(s), "score": float(s)}
        for n, (i, c, b, s) in enumerate(labels)
    ]
    info = {
        "plgen_ddp": {
            "version": "0",
            "annotations": {"name": "instances_drawn.json", "sha256": "ab" * 32},
            "label": {"novel": names, "base": "all others", "score_threshold": low, "threshold": "fixed"},
            "images_failed": 0,
        }
    }
    common = {"images": rows, "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(common | {"info": info, "annotations": base + pseudo}))
    path.with_name("truth.json").write_text(json.dumps(common | {"annotations": base + truth}))
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with images, labels.json, truth.json, others.json and report.html of all of them."""
    folder = tmp_path_factory.mktemp("report")
    draw_images(folder / "images", 80)
    (folder / "images" / "7.jpg").write_bytes(b"no image")
    write_labels(folder / "labels.json", 80)
    write_labels(folder / "second" / "others.json", 80, seed=1, low=0.6)
    common = ("--labels", folder / "labels.json", "--images", folder / "images")
    call("report", *common, "--ground-truth", folder / "truth.json")
    call("report", *common, "--compare", folder / "second" / "others.json", "--output", folder / "both.html")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium; the tests that need it skip where it is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra dev)")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    started.set_page_load_timeout(300)
    started.set_script_timeout(300)
    yield started
    started.quit()


class Page:
    """A report in the browser, through what a person moves and reads."""

    def __init__(self, browser, path, *, width=1280, height=900, scheme="light"):
        self.browser = browser
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [_media(scheme)]})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get_log("browser")
        browser.get(Path(path).resolve().as_uri())

    def run(self, script, *values):
        return self.browser.execute_script(script, *values)

    def threshold(self, value, file=0):
        """Moves the slider to a threshold, and returns the one that it stops at."""
        script = """
            const slider = document.getElementById("slider-" + arguments[1]);
            const grid = JSON.parse(document.getElementById("data").textContent)[arguments[1]].grid;
            slider.value = grid.reduce((best, own, i) =>
                Math.abs(own - arguments[0]) < Math.abs(grid[best] - arguments[0]) ? i : best, 0);
            slider.dispatchEvent(new Event("input", {bubbles: true}));
            return grid[+slider.value];"""
        return self.run(script, value, file)

    def name(self, name):
        script = """
            const select = document.getElementById("name");
            select.value = [...select.options].find((option) => option.textContent === arguments[0]).value;
            select.dispatchEvent(new Event("input", {bubbles: true}));"""
        self.run(script, name)

    def count(self, what, file=0):
        script = "return document.querySelector(`#tiles-${arguments[1]} [data-count='${arguments[0]}']`).textContent"
        return float(self.run(script, what, file).replace("\u202f", ""))

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def shown_truth(self, file=0):
        """(image id, name) of every box of the ground truth that is seen, and of every line of the lists."""
        script = """
            return [`svg[data-file="${arguments[0]}"] g.truth`, "li.object"].map((selector) =>
                [...document.querySelectorAll(selector)].filter((one) => getComputedStyle(one).display !== "none")
                .map((one) => [+one.closest(".card").dataset.id,
                    (one.querySelector("title") ?? one).textContent.replace(", ground truth", "")]));"""
        return [sorted(map(tuple, found)) for found in self.run(script, file)]

    def shown_boxes(self, file=0):
        """(image id, place of the name) of every label box that is seen."""
        script = """
            return [...document.querySelectorAll(`svg g.label[data-file="${arguments[0]}"]`)]
                .filter((box) => getComputedStyle(box).display !== "none")
                .map((box) => [+box.closest(".card").dataset.id, +box.dataset.name]);"""
        return sorted(map(tuple, self.run(script, file)))

    def bars(self, key):
        """The values of a plot's bars: their lengths, as parts of the axis, times the number at its end."""
        script = """
            const key = arguments[0], end = document.getElementById(key + "-y4");
            const most = end ? +end.textContent.trim().replace(/[^0-9.]/g, "") : 1;
            return [...document.querySelectorAll(`[id^="${key}-b"]`)].map((bar) =>
                most * +bar.style.transform.match(/[(](.*)[)]/)[1]);"""
        return self.run(script, key)

    def screenshot(self, name, *, whole=False):
        """Keeps a picture where PLGEN_SCREENSHOTS names a folder."""
        if folder := os.environ.get("PLGEN_SCREENSHOTS"):
            import base64

            Path(folder).mkdir(parents=True, exist_ok=True)
            taken = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
            (Path(folder) / name).write_bytes(base64.b64decode(taken["data"]))


def _media(scheme):
    return {"name": "prefers-color-scheme", "value": scheme}


def labels_in(path):
    content = json.loads(Path(path).read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    return content, [
        (row["image_id"], names[row["category_id"]], row) for row in content["annotations"] if "confidence" in row
    ]


def test_threshold_and_name_act_on_counts_gallery_and_plots_at_once(browser, drawn):
    page = Page(browser, drawn / "report.html")
    page.screenshot("light.png")
    content, rows = labels_in(drawn / "labels.json")
    sample = {
        int(value) for value in page.run("return [...document.querySelectorAll('.card')].map((c) => c.dataset.id)")
    }
    assert len(sample) == 60
    for threshold, name in ((0, None), (0.7, None), (0.7, "cat"), (0.55, EVIL), (0.9, NAMES[2])):
        at = page.threshold(threshold)
        page.name(name or "all names")
        kept = [row for row in rows if row[2]["confidence"] > at and name in (None, row[1])]
        assert page.count("labels") == len(kept) > 0
        assert page.count("an-image") == pytest.approx(len(kept) / len(content["images"]), abs=0.006)
        assert page.count("empty") == len(content["images"]) - len({image for image, *_ in kept})
        expected = sorted((image, NAMES.index(own)) for image, own, _ in kept if image in sample)
        assert page.shown_boxes() == expected
        assert sum(page.bars("p0-sizes")) == pytest.approx(len(kept))
        per_image = np.bincount([sum(image == row["id"] for image, *_ in kept) for row in content["images"]])
        assert page.bars("p0-per")[: len(per_image)] == pytest.approx(per_image.tolist())
        assert max(page.bars("p0-counts")) == pytest.approx(sum(name in (None, own) for _, own, _ in rows))
        if name is None:
            assert sum(page.bars("p0-names")) == pytest.approx(len(kept))
    page.screenshot("filtered.png")
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_figures_are_those_of_the_evaluation(browser, drawn):
    page = Page(browser, drawn / "report.html")
    result = evaluate(drawn / "labels.json", drawn / "truth.json")
    for what, value in (
        ("precision", result.quality.precision),
        ("recall", result.quality.recall),
        ("f1", result.quality.f1),
        ("ap50", result.AP50),
    ):
        assert page.count(what) == pytest.approx(value, abs=6e-4), what
    exact = page.run("return JSON.parse(document.getElementById('data').textContent)[0].quality[0][0]")
    wanted = [result.quality.precision, result.quality.recall, result.quality.f1]
    assert exact == pytest.approx(wanted, abs=1e-6), "rounded once, as the header is: 20 of 47 is 0.426"
    shown = page.run("return JSON.parse(document.getElementById('data').textContent)[0].shown")
    by_name = [evaluate(drawn / "labels.json", drawn / "truth.json", [NAMES[place - 1]]).AP50 for place in shown]
    assert page.bars("p0-ap") == pytest.approx(by_name, abs=6e-4) and min(by_name) > 0.1
    shares = [part / result.pseudo_labels for part in page.bars("p0-kinds")]
    quality = result.quality
    assert shares == pytest.approx(
        [
            quality.precision,
            quality.duplicate,
            quality.wrong_name,
            quality.base_object,
            quality.part,
            quality.background,
        ]
    )


def test_a_name_that_is_a_script_stays_text(browser, drawn):
    page = Page(browser, drawn / "report.html")
    assert browser.title == "Pseudo labels of instances_drawn.json"
    assert page.run("return document.scripts.length") == 2
    assert EVIL in page.run("return [...document.querySelectorAll('#name option')].map((o) => o.textContent)")
    ticks = page.run("return [...document.querySelectorAll('#p0-names text')].map((text) => text.textContent)")
    cut = {tick.removesuffix("…") for tick in ticks if len(tick) > 10}
    assert "cat" in ticks and len(cut) == 2 and all(any(name.startswith(one) for name in NAMES) for one in cut)
    text = (drawn / "report.html").read_text()
    assert "<script>document" not in text and "&lt;script&gt;document" in text
    for loaded in ("http:", "https:"):
        assert f'src="{loaded}' not in text and f"url({loaded}" not in text


def test_two_files_side_by_side_have_thresholds_of_their_own(browser, drawn):
    page = Page(browser, drawn / "both.html")
    paths = (drawn / "labels.json", drawn / "second" / "others.json")
    for file, (path, threshold) in enumerate(zip(paths, (0.5, 0.8), strict=True)):
        at = page.threshold(threshold, file)
        kept = [row for row in labels_in(path)[1] if row[2]["confidence"] > at]
        assert page.count("labels", file) == len(kept)
        assert len(page.shown_boxes(file)) <= len(kept)
        assert page.run("return document.querySelectorAll(`.card svg[data-file='${arguments[0]}']`).length", file) == 60
    page.screenshot("compared.png")
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_scheme_and_fits_a_phone(browser, drawn, scheme):
    page = Page(browser, drawn / "report.html", width=390, height=844, scheme=scheme)
    page.screenshot(f"phone-{scheme}.png", whole=False)
    assert page.run("return document.documentElement.scrollWidth") <= 390
    light = page.run(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((part) => part > 128)"
    )
    assert light == (scheme == "light")
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) > 50
    for text, ratio, size in contrasts:
        assert ratio >= 4.5 and size >= 13, (text, ratio, size)


# Every text with its contrast to the ground behind it and its size in pixels; of plots, the size as it is drawn.
CONTRASTS = """
const channel = (part) => ((part /= 255) <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
const ground = (element) => { for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour; } };
return [...document.querySelectorAll("h1,h2,h3,p,dt,dd,label,summary,span,th,td,option,svg text")]
    .filter((one) => one.textContent.trim() && one.getClientRects().length && !one.closest(".sr"))
    .map((one) => { const style = getComputedStyle(one), plot = one.closest(".plot svg");
        const pair = [light(plot ? style.fill : style.color), light(ground(one))].sort((a, b) => b - a);
        const scale = plot ? plot.getBoundingClientRect().width / plot.viewBox.baseVal.width : 1;
        return [one.textContent.trim().slice(0, 40), (pair[0] + 0.05) / (pair[1] + 0.05),
            parseFloat(style.fontSize) * scale]; });
"""


def test_keys_move_everything_and_readers_of_screens_hear_it(browser, drawn):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, drawn / "report.html")
    before = page.count("labels")
    page.run("document.getElementById('slider-0').focus()")
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT * 20).perform()
    assert page.count("labels") < before
    ActionChains(browser).send_keys(Keys.TAB).send_keys("c").perform()  # the next stop is the name filter
    assert page.run("return document.getElementById('name').selectedOptions[0].textContent") == "cat"
    ActionChains(browser).send_keys(Keys.TAB).send_keys(Keys.SPACE).perform()
    assert page.run("return document.body.className") == "no-base"
    unnamed = """
        return [...document.querySelectorAll("input,select,button,svg[role=img],[role=region],figure.plot,img")].filter(
            (one) => !(one.labels?.length || one.textContent.trim() && one.matches("button")
                || one.getAttribute("aria-label"))).length;"""
    assert page.run(unnamed) == 0
    assert page.run("return document.documentElement.lang") == "en"
    assert "labels above" in page.run("return document.getElementById('figure-p0-counts').getAttribute('aria-label')")


def test_images_of_each_kind_and_the_same_ones_again(drawn, tmp_path):
    again = tmp_path / "again.html"
    words = ("--labels", drawn / "labels.json", "--images", drawn / "images", "--ground-truth", drawn / "truth.json")
    call("report", *words, "--output", again)
    assert again.read_bytes() == (drawn / "report.html").read_bytes()
    call("report", *words, "--output", again, "--seed", "1")
    assert again.read_bytes() != (drawn / "report.html").read_bytes()
    for heading in ("Best", "Random", "Near the threshold", "Worst"):
        assert f"<h3>{heading} " in again.read_text()


def test_five_thousand_images_are_one_small_file(tmp_path):
    draw_images(tmp_path / "images", 80)
    write_labels(tmp_path / "labels.json", 5000)
    call("report", "--labels", tmp_path / "labels.json", "--images", tmp_path / "images")
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_counts_at_a_threshold_are_of_the_labels_strictly_above_it(tmp_path):
    grid = threshold_grid(np.array([0.8, 0.85, 0.95]))
    assert grid[0] < 0.8 <= grid[1] and len(grid) < 60
    assert threshold_grid(np.array([0.8]), 0.7434)[:3].tolist() == [0.7434, 0.745, 0.75]
    labels = read_label_file(write_labels(tmp_path / "labels.json", 40), tmp_path / "truth.json", None)
    tables = make_tables(labels)
    for step, threshold in enumerate(tables.grid):
        kept = labels.scores > threshold
        assert above(tables.labels)[0, step, 0] == kept.sum()
        for name in range(3):
            assert above(tables.labels)[name + 1, step, 0] == (kept & (labels.name == name)).sum()
    assert above(tables.per_image)[0, 0, 0] == len(set(labels.image_ids.tolist()))


def test_failed_images_have_their_reasons_and_thumbnails(tmp_path, capsys):
    draw_images(tmp_path / "images", 3)
    (tmp_path / "images" / "2.jpg").write_bytes(b"no image")
    write_labels(tmp_path / "images.json", 3)
    failed = [Regions.failed(2, "decode", "not an image <b>"), Regions.failed(3, "read", "took too long")]
    store = RegionStore(tmp_path / "out" / "store")
    identity = {"dataset": {"digest": "none"}}
    store.open_for_scoring(Manifest(4, Similarity("softmax", 0.01), identity, {}, str(tmp_path / "images.json")))
    store.write_part(failed)
    call("report", "--failures", "--run", tmp_path / "out", "--images", tmp_path / "images")
    text = (tmp_path / "out" / "failures.html").read_text()
    assert text.count('<figure class="card failure"') == 2
    assert "decode: not an image &lt;b&gt;" in text and "read: took too long" in text
    assert text.count("<img ") == 1 and text.count("cannot be decoded") == 1


def test_mistakes_are_one_line(drawn, tmp_path, capsys):
    assert "--labels is missing" in refused(capsys, "report", [])
    labels = drawn / "labels.json"
    assert "--images (data.image_root): no folder at" in refused(
        capsys, "report", ["--labels", labels, "--images", tmp_path / "none"]
    )
    assert "has no pseudo labels" in refused(
        capsys, "report", ["--labels", drawn / "truth.json", "--output", tmp_path / "a"]
    )
    line = refused(capsys, "report", ["--labels", labels, "--output", tmp_path / "a", "--seed", "-1"])
    assert line == "error: --seed: -1 is negative; it is 0 or more\n"
    line = refused(capsys, "report", ["--labels", labels, "--output", labels])
    assert "--output" in line and "is --labels" in line


def changed(source, path, change):
    """A copy of a JSON after a change of its content."""
    content = json.loads(source.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_labels_of_another_data_set_are_not_compared(drawn, tmp_path, capsys):
    words = ["--labels", drawn / "labels.json", "--output", tmp_path / "report.html", "--compare"]
    size = changed(drawn / "labels.json", tmp_path / "a.json", lambda content: content["images"][3].update(width=161))
    line = refused(capsys, "report", [*words, size])
    assert f"image 4 is 160 x 120 in {drawn / 'labels.json'} and 161 x 120 in {size}" in line
    name = changed(
        drawn / "labels.json", tmp_path / "b.json", lambda content: content["images"][3].update(file_name="x.jpg")
    )
    assert "--compare: image 4 is 4.jpg in " in refused(capsys, "report", [*words, name])
    assert not (tmp_path / "report.html").exists()


def test_a_comparison_says_how_many_images_both_files_have(drawn, tmp_path):
    write_labels(tmp_path / "few.json", 4)
    more = tmp_path / "report.html"
    call("report", "--labels", tmp_path / "few.json", "--compare", drawn / "labels.json", "--output", more)
    assert "4 images are in both files, 76 only in the second." in more.read_text()
    assert "in both files" not in (drawn / "both.html").read_text()


def test_labels_that_do_not_say_their_names_are_compared_with_ground_truth_by_novel(drawn, tmp_path, capsys):
    bare = changed(drawn / "labels.json", tmp_path / "bare.json", lambda content: content.pop("info"))
    words = ["--labels", bare, "--ground-truth", drawn / "truth.json"]
    assert "give them with --novel" in refused(capsys, "report", words)
    call("report", *words, "--novel", NAMES[0], NAMES[2])
    text = (tmp_path / "report.html").read_text()
    rows = [name for _, name, _ in labels_in(bare)[1] if name in (NAMES[0], NAMES[2])]
    assert f"<h1>{len(rows)} labels on 80 images</h1>" in text
    result = evaluate(bare, drawn / "truth.json", [NAMES[0], NAMES[2]])
    assert f"precision {result.quality.precision:.3f}, recall {result.quality.recall:.3f}" in text
    assert "has no category 'cot'; did you mean 'cat'" in refused(capsys, "report", [*words, "--novel", "cot"])
    line = refused(
        capsys, "report", ["--labels", drawn / "labels.json", "--novel", "table", "--output", tmp_path / "x"]
    )
    assert "was not made for 'table'" in line


def test_a_file_without_any_label_has_a_report(tmp_path):
    content = json.loads(write_labels(tmp_path / "labels.json", 5).read_text())
    content["annotations"] = [row for row in content["annotations"] if "confidence" not in row]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    call("report", "--labels", tmp_path / "labels.json", "--ground-truth", tmp_path / "truth.json")
    assert "<h1>0 labels on 5 images</h1>" in (tmp_path / "report.html").read_text()


def objects_in(path, names):
    content = json.loads(Path(path).read_text())
    name_of = {row["id"]: row["name"] for row in content["categories"]}
    rows = [(row["image_id"], name_of[row["category_id"]]) for row in content["annotations"]]
    return sorted(row for row in rows if row[1] in names)


def test_ground_truth_follows_the_name_filter_and_base_annotations_stay(browser, drawn):
    page = Page(browser, drawn / "report.html")
    count = (
        "return [...document.querySelectorAll('g.base')].filter((b) => getComputedStyle(b).display !== 'none').length"
    )
    sample = {image for image, _ in page.shown_truth()[0]}
    base = page.run(count)
    for name in ("cat", None, NAMES[2]):
        page.name(name or "all names")
        wanted = [
            row for row in objects_in(drawn / "truth.json", NAMES if name is None else [name]) if row[0] in sample
        ]
        assert page.shown_truth() == [wanted, wanted] and wanted
    assert page.run(count) == base > 0
    page.run("document.getElementById('show-truth').click()")
    assert page.shown_truth() == [[], []]


def test_each_of_two_files_has_the_ground_truth_of_its_own_names(browser, tmp_path):
    write_labels(tmp_path / "first.json", 20)
    split = [NAMES[:2], NAMES[1:]]

    def keep(content, names):
        ids = {row["id"] for row in content["categories"] if row["name"] in names}
        content["info"]["plgen_ddp"]["label"]["novel"] = names
        content["annotations"] = [
            row for row in content["annotations"] if "confidence" not in row or row["category_id"] in ids
        ]

    changed(tmp_path / "first.json", tmp_path / "second.json", lambda content: keep(content, split[1]))
    changed(tmp_path / "first.json", tmp_path / "first.json", lambda content: keep(content, split[0]))
    words = ["--labels", tmp_path / "first.json", "--compare", tmp_path / "second.json"]
    call("report", *words, "--ground-truth", tmp_path / "truth.json")
    page = Page(browser, tmp_path / "report.html", width=1000)
    for file, names in enumerate(split):
        assert page.shown_truth(file)[0] == objects_in(tmp_path / "truth.json", names)
    assert page.shown_truth()[1] == sorted(row for names in split for row in objects_in(tmp_path / "truth.json", names))
    note = page.text("#which-names")
    assert f"only the first has cat; only the second has {NAMES[2]}. " in note
    page.name("cat")
    assert page.count("labels") > 0 == page.count("labels", 1)
    assert {page.text(f"#tiles-1 [data-count='{what}']") for what in ("precision", "recall", "f1", "ap50")} == {
        "\u2013"
    }
    shown = "return [0, 1].map((n) => getComputedStyle(document.querySelector(`#p${n}-sizes`)).visibility)"
    assert page.run(shown) == ["visible", "hidden"]


@pytest.mark.parametrize(
    ("threshold", "labels", "words"),
    [
        (0, True, "0"),
        (0.05, True, "0.05"),
        ({"cat": 0.3, EVIL: 0.35, NAMES[2]: 0.3}, True, "0.3 to 0.35"),
        (1, False, "1"),
    ],
)
def test_the_slider_opens_at_the_threshold_of_the_header(browser, tmp_path, threshold, labels, words):
    def change(content):
        content["info"]["plgen_ddp"]["label"]["score_threshold"] = threshold
        if not labels:
            content["annotations"] = [row for row in content["annotations"] if "confidence" not in row]

    path = changed(write_labels(tmp_path / "labels.json", 12), tmp_path / "labels.json", change)
    call("report", "--labels", path, "--ground-truth", tmp_path / "truth.json")
    page = Page(browser, tmp_path / "report.html")
    assert f"a score above {words}," in page.text(".lead")
    assert page.text("#value-0") == words
    assert page.count("labels") == len(labels_in(path)[1])
    header = page.text(".lead:nth-of-type(2)")
    for what in ("precision", "recall", "F1", "AP50"):
        assert f"{what} {page.text(f'#tiles-0 [data-count={what.lower()}]')}" in header
    assert ("precision \u2013" in header) == (not labels)
    last = page.threshold(2)
    assert page.text("#value-0") == f"{last:.3g}" or last == 1
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"label": {"score_threshold": {"heart": "x"}}},
        {"label": {"score_threshold": "0.5"}},
        {"label": {"score_threshold": 10**400}},
        {"label": {"base": [{}], "novel": NAMES, "templates": 3}},
        {"label": [1], "store": "x"},
        {"store": [1], "annotations": 5, "version": [], "images_failed": "many"},
        [],
    ],
)
def test_what_the_file_records_and_nobody_can_use_counts_as_not_said(tmp_path, settings):
    path = write_labels(tmp_path / "labels.json", 4)
    changed(path, path, lambda content: content.update(info={"plgen_ddp": settings}))
    labels = read_label_file(path, tmp_path / "truth.json", None, NAMES)
    assert "does not say at which threshold" in threshold_in_words(labels)
    assert ("Dataset", "labels.json, 4 images") in facts_of(labels)
    assert make_tables(labels).grid[0] == threshold_grid(labels.scores)[0]


def test_a_page_of_a_file_with_unusable_settings(tmp_path):
    path = write_labels(tmp_path / "labels.json", 4)
    changed(
        path, path, lambda content: content.update(info={"plgen_ddp": {"label": {"score_threshold": {"cat": "x"}}}})
    )
    call("report", "--labels", path)
    assert "does not say at which threshold" in (tmp_path / "report.html").read_text()


def test_long_names_and_names_of_two_lines_stay_in_their_places(browser, tmp_path):
    names = ["cat", "W" * 300, "two\nlines", "\u72ac" * 40]
    path = write_labels(tmp_path / "labels.json", 30, names=names)
    call("report", "--labels", path, "--ground-truth", tmp_path / "truth.json")
    page = Page(browser, tmp_path / "report.html", width=485)
    page.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    page.screenshot("long-names.png", whole=True)
    assert page.run("return document.documentElement.scrollWidth") <= 485
    rows = "return Math.max(...[...document.querySelectorAll('tbody tr')].map((row) => row.offsetHeight))"
    assert page.run(rows) < 1500, "not a letter a line"
    outside = """
        return [...document.querySelectorAll(".plot svg text")].filter((one) => {
            const own = one.getBoundingClientRect(), card = one.closest(".plot").getBoundingClientRect();
            return own.width && (own.left < card.left || own.right > card.right || own.bottom > card.bottom);
        }).map((one) => one.textContent);"""
    assert page.run(outside) == []
    ticks = page.run("return [...document.querySelectorAll('#p0-names text')].map((text) => text.textContent)")
    assert "two lines" in ticks
    assert any(tick.startswith("WW") and tick.endswith("…") for tick in ticks)


@pytest.mark.parametrize("width", [390, 1200, 1400])
def test_ticks_of_sizes_keep_apart(browser, drawn, width):
    page = Page(browser, drawn / "report.html", width=width)
    spans = page.run("""
        const all = [...document.querySelectorAll("#p0-sizes text")].map((one) => one.getBoundingClientRect());
        const lowest = Math.max(...all.map((one) => one.top));  // the axis' title; the ticks are right above it
        const ticks = all.filter((one) => one.top < lowest).map((one) => one.top);
        const row = Math.max(...ticks);
        return all.filter((one) => Math.abs(one.top - row) < 2).map((one) => [one.left, one.right]);""")
    assert len(spans) >= 4
    gaps = [right[0] - left[1] for left, right in zip(sorted(spans), sorted(spans)[1:], strict=False)]
    assert min(gaps) > 6


def test_the_facts_count_what_failed(tmp_path):
    content = json.loads(write_labels(tmp_path / "labels.json", 5).read_text())
    for failed, said in ((1, "1 image could not be scored"), (2, "2 images could not be scored"), (0, "none")):
        content["info"]["plgen_ddp"]["images_failed"] = failed
        (tmp_path / "labels.json").write_text(json.dumps(content))
        facts = dict(facts_of(read_label_file(tmp_path / "labels.json", None, None)))
        assert facts["Failures"] == said and facts["Dataset"].endswith(", 5 images")


@pytest.mark.parametrize(
    ("images", "ranks", "said"), [(1, 1, "(1 image on 1 rank)"), (48, 2, "(48 images on 2 ranks)")]
)
def test_the_speed_is_what_the_scoring_has_logged(tmp_path, capsys, images, ranks, said):
    summary = RankSummary(images // ranks, boxes=9, seconds=4.0, waited=0.0, peak_memory=1, peak_gpu_memory=0, host="a")
    write_labels(tmp_path / "labels.json", 5)
    print_scoring([summary] * ranks, [], 0)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "rank-0.txt").write_text(capsys.readouterr().out)
    assert read_label_file(tmp_path / "labels.json", None, None).speed == f"{images / 4:.2f} images a second {said}"
