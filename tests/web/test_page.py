"""The page, in headless Chromium with real clicks: upload, run, download, cancel, refine, two visitors, bad files, the keyboard alone."""

import base64
import contextlib
import io
import json
import os
import shutil
import time
import urllib.error
import urllib.request

import pytest
import torch
import trimesh
from batch_bench import view_of
from fake_priors import coloured_ellipsoid
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("uvicorn")
pytest.importorskip("playwright")
from playwright.sync_api import sync_playwright
from splat_scenes import ball
from web_serving import serving

from microdreamer.core.errors import UserError
from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.splat_files import WRITERS
from microdreamer.web import page as module
from microdreamer.web.api import create_api
from microdreamer.web.jobs import Jobs, State
from microdreamer.web.page import add_page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60_000  # ms that a click may take to show
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (CHROMIUM names one)")


class Gated:
    """A maker whose jobs wait at a gate once it is shut."""

    def __init__(self, maker):
        self._maker, self.config, self.prior, self.shut = maker, maker.config, maker.prior, False

    def __call__(self, job):
        job.told("fit", "round 1/2", 0.25, 30.0, module_preview())
        while self.shut:
            if job.should_stop():
                raise UserError("stopped")
            time.sleep(0.01)
        return self._maker(job)


def module_preview():
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def served(maker, tmp_path_factory):
    """The address of a page, its jobs and their maker."""
    folder = tmp_path_factory.mktemp("page")
    gated = Gated(maker)
    jobs = Jobs(gated, folder / "jobs", most_waiting=2)
    with serving(add_page(create_api(jobs, gated), jobs, gated, cache=folder / "cache")) as port:
        yield f"http://127.0.0.1:{port}", jobs, gated
    jobs.close(20)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as player:
        flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = player.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, served):
    """`visit(width=1280)` -> a page of a new visitor, whose errors fail the test."""
    opened, errors = [], []

    def open_page(width=1280):
        context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served[0])
        page.wait_for_selector("#make", timeout=SECONDS)
        opened.append(context)
        return page

    served[2].shut = False
    yield open_page
    served[2].shut = False
    for context in opened:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def picture(prior, tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "egg_rgba.png"
    view_of(prior).save(path)
    return path


def upload(page, path):
    page.set_input_files("#picture input[type=file]", path)


def told(page, words):
    page.wait_for_function(f"document.querySelector('#told').innerText.includes({json.dumps(words)})", timeout=SECONDS)


def cut_out_shown(page):
    page.wait_for_selector("#cut_out img", timeout=SECONDS)


@needs_chromium
def test_a_picture_becomes_a_mesh_that_is_shown_downloaded_and_refined(visit, served, picture):
    page = visit()
    upload(page, picture)
    cut_out_shown(page)
    page.click("#make")
    told(page, "done in")
    page.wait_for_selector("#mesh canvas", timeout=SECONDS)
    page.get_by_role("tab", name="Files").click()
    with page.expect_download(timeout=SECONDS) as waiting:
        page.locator("#files a", has_text="B").filter(has=page.locator("xpath=self::*[contains(@href, 'egg_model.glb')]")).first.click()
    data = waiting.value.path().read_bytes()
    assert len(trimesh.load(io.BytesIO(data), file_type="glb", force="mesh").faces) > 10
    jobs = served[1]
    (state,) = [state for state in jobs.states("page") if "egg_model.glb" in state.files]
    assert data == jobs.file(state.id, "egg_model.glb").read_bytes()
    page.click("#refine")
    told(page, "done in")
    page.wait_for_function("document.querySelector('#history input').value.includes('egg, refined')", timeout=SECONDS)
    assert any("egg_refined.glb" in state.files for state in jobs.states("page"))
    assert not page.locator("#refine").is_enabled()  # it is refined already


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_more_sides_of_one_object_go_into_it_and_into_its_refinement(visit, served, prior, picture, tmp_path, width):
    """Front and left; each is cut out, the object is made of both with their cameras, and a picture shows these."""
    view_of(prior, 270.0).save(tmp_path / "left.png")
    page = visit(width)
    page.locator("#sides button", has_text="Other sides").click()
    page.set_input_files("#picture_left input[type=file]", tmp_path / "left.png")
    page.wait_for_selector("#cut_out_left img", timeout=SECONDS)
    upload(page, picture)
    cut_out_shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/sides_{width}.png", full_page=True)
    page.click("#make")
    told(page, "done in")
    jobs = served[1]
    state = jobs.states("page")[-1]
    assert {"egg_cameras.jpg", "egg_model.glb"} <= set(state.files)
    places = json.loads(jobs.file(state.id, "egg.json").read_text())["cameras"]
    assert [place["azimuth"] for place in places] == [0.0, 270.0]
    page.click("#refine")
    page.wait_for_function("document.querySelector('#history input').value.includes('egg, refined')", timeout=SECONDS)
    assert sorted(path.name for path in (jobs.folder / jobs.states("page")[-1].id).glob("cutout*")) == ["cutout.png", "cutout_2.png"]


@needs_chromium
def test_a_sentence_alone_by_the_keyboard_alone(visit):
    page = visit()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.querySelector('#prompt').contains(document.activeElement)"):
            break
    page.keyboard.type("an egg")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "make":
            break
    page.keyboard.press("Enter")
    told(page, "done in")


@needs_chromium
def test_a_job_is_watched_and_cancelled(visit, served):
    _, jobs, maker = served
    maker.shut = True
    page = visit()
    page.fill("#prompt input, #prompt textarea", "an egg")
    page.click("#make")
    told(page, "round 1/2: 25%")
    assert "about 30 s of rounds left" in page.inner_text("#told") and page.locator("#told img").count() == 1
    assert not page.locator("#make").is_enabled()
    page.click("#cancel")
    told(page, "cancelled")
    assert jobs.states("page")[-1].status == "cancelled"
    page.wait_for_function("!document.querySelector('#make').disabled", timeout=SECONDS)


@needs_chromium
def test_two_visitors_wait_their_turn_and_one_who_leaves_frees_it(visit, served):
    _, jobs, maker = served
    maker.shut = True
    pages = [visit(), visit(390)]
    for page, words in zip(pages, ("an egg", "a red egg"), strict=True):
        page.fill("#prompt input, #prompt textarea", words)
        page.click("#make")
        told(page, "round 1/2" if words == "an egg" else "waiting, next")
    running = next(state.id for state in jobs.states("page") if state.status == "running")
    pages[0].context.close()
    end = time.monotonic() + 60
    while jobs.state(running).status != "cancelled":
        assert time.monotonic() < end, "its job goes on though nobody watches"
        time.sleep(0.05)
    maker.shut = False
    told(pages[1], "done in")


@needs_chromium
def test_what_is_bad_is_one_line_and_the_page_goes_on(visit, served, picture, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "<b>x.png").write_bytes(picture.read_bytes()[:500])
    Image.new("RGB", (4, 4), "red").save(tmp_path / "small.png")
    page = visit()
    for name, message in (("text.png", "not a picture"), ("<b>x.png", "damaged or cut short"), ("small.png", "at least 16x16")):
        upload(page, tmp_path / name)
        page.wait_for_function(f"document.querySelector('#said').innerText.includes({json.dumps(message)})", timeout=SECONDS)
        shown = page.inner_text("#said")
        assert str(tmp_path) not in shown and "/tmp" not in shown and "Traceback" not in page.inner_text("body")
        page.click("#picture button[aria-label*='emove'], #picture button[aria-label*='lear']")
        page.wait_for_function("document.querySelector('#said').innerText.trim() == ''", timeout=SECONDS)
    page.click("#make")
    told(page, "nothing to make")
    page.fill("#prompt input, #prompt textarea", "xyzzy")
    upload(page, picture)
    cut_out_shown(page)
    page.click("#make")
    told(page, "done in")


@needs_chromium
def test_gaussians_of_another_program_become_a_mesh_and_a_print(visit, served, tmp_path):
    WRITERS["ply"](tmp_path / "ball.ply", ball(1500))
    (tmp_path / "text.ply").write_text("none")
    page = visit()
    page.locator("button", has_text="More").click()
    page.fill("#size input", "50")
    page.locator("button", has_text="Gaussians of another program").click()
    page.set_input_files("#others input[type=file]", tmp_path / "text.ply")
    page.wait_for_selector("#others button[aria-label*='emove'], #others button[aria-label*='lear']", timeout=SECONDS)
    page.click("#mesh_of")
    told(page, "expected Gaussians as PLY")
    page.click("#others button[aria-label*='emove'], #others button[aria-label*='lear']")
    page.set_input_files("#others input[type=file]", tmp_path / "ball.ply")
    page.wait_for_selector("#others a", timeout=SECONDS)
    page.click("#mesh_of")
    told(page, "done in")
    page.wait_for_function("document.querySelector('#history input').value.includes('ball')", timeout=SECONDS)
    state = next(state for state in served[1].states("page") if "ball_model.stl" in state.files)
    printed = trimesh.load(served[1].file(state.id, "ball_model.stl"))
    assert printed.is_watertight and printed.extents.max() == pytest.approx(50, rel=1e-4)
    assert not page.locator("#refine").is_enabled()


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(visit, width):
    page = visit(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def fetch(address):
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read()
    return b""


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "..%2f..%2f..%2f..%2fetc%2fpasswd",
        "app.py",
        "{jobs}/{id}/picture",
        "{jobs}/{id}/object_model.glb",
        "{cache}/../jobs/{id}/picture",
        "http://127.0.0.1:{port}/health",
        "%68ttp://127.0.0.1:{port}/health",
        "file:///etc/passwd",
    ],
)
def test_no_address_of_the_page_leads_to_other_files(served, picture, path):
    address, jobs, _ = served
    state = module.submit(jobs, served[2], module.Order(prompt="an egg"), {"picture": picture.read_bytes()}, "api")
    end = time.monotonic() + 60
    while jobs.state(state.id).status in ("queued", "running"):
        assert time.monotonic() < end
        time.sleep(0.02)
    path = path.format(jobs=jobs.folder, id=state.id, cache=os.environ["GRADIO_TEMP_DIR"], port=address.rpartition(":")[2])
    for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/"):
        data = fetch(f"{address}{prefix}{path}")
        assert (
            b"root:" not in data and b"glTF" not in data and b"PNG" not in data[:8] and b"healthy" not in data and b"import sys" not in data
        )


def test_gaussians_are_turned_for_the_viewer_and_only_for_it(tmp_path):
    model = coloured_ellipsoid()
    model.save_ply(tmp_path / "a.ply")
    module.turn_for_viewer(tmp_path / "a.ply", tmp_path / "viewer" / "b.ply")
    turned = GaussianModel.load_ply(tmp_path / "viewer" / "b.ply")
    assert torch.allclose(turned.means, model.means * torch.tensor([1.0, -1.0, -1.0]), atol=1e-6)
    assert torch.equal(turned.log_scales, model.log_scales) and torch.equal(turned.opacity_logits, model.opacity_logits)


def test_what_is_told_is_text_never_markup():
    state = State("x", "running", 0, "fit", "<script>alert(1)</script>", 0.5, 10.0, 3.0, None, ("<b>a</b>",), (), 1)
    shown = module.as_html(state, b"jpeg")
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "<b>" not in shown
    assert base64.b64encode(b"jpeg").decode() in shown and 'value="0.500"' in shown
    assert "<i>" not in module.failure("<i>x</i>")
    assert module.clock(61) == "61 s" and module.clock(600) == "10 min"
