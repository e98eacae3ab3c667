"""A notebook saved with views in it, as nbconvert shows it to a reader without a kernel or a network."""

import base64
import io
import re

import nbformat.v4 as nbf
import pytest
import torch
from browser import comes
from matplotlib.image import imread
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ClearMetadataPreprocessor
from traitlets.config import Config

import ckptlab
from ckptlab.layout import Layout
from ckptlab.widgets.explore import explore
from ckptlab.widgets.files import files_view
from ckptlab.widgets.inferred import inferred_view
from ckptlab.widgets.keys import keys_view
from ckptlab.widgets.run import RunPanel
from ckptlab.widgets.tensor import mesh_view, tensor_view
from ckptlab.widgets.values import values_view
from ckptlab.widgets.whatif import whatif_view

MODEL = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def run_view(path):
    """The forecast that stands there before a run: no ranks."""
    opened = tensor_view(path)
    return RunPanel(opened.session, str(path))


def read(path):
    """Values that have been looked at."""
    panel = values_view(path)
    panel.look.cancel()
    panel.look.button.click()
    panel.look._job.join()
    return panel


VIEWS = {
    "explorer": explore,
    "keys": keys_view,
    "tensor": tensor_view,
    "mesh": lambda _: mesh_view(Layout.parse("replicate=2, shard=2", "Replicate, Shard(0)"), hosts=2),
    "files": files_view,
    "layout": inferred_view,
    "what if": whatif_view,
    "run": run_view,
    "values": read,
}


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A notebook that shows every view, saved with the state of its widgets."""
    path = tmp_path_factory.mktemp("saved") / "checkpoint"
    ckptlab.save({"w": torch.arange(48.0).reshape(8, 6), "b": torch.ones(6), "step": 3}, path, no_dist=True)
    cells, state = [], {}
    for name, make in VIEWS.items():
        view = make(path)
        bundle = view._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        state[data[MODEL]["model_id"]] = {"model_name": "VBoxModel", "model_module": "x", "state": {}}
        output = nbf.new_output("execute_result", data=data, metadata=metadata)
        cells.append(nbf.new_code_cell(name, outputs=[output]))
        view.close()
    book = nbf.new_notebook(cells=cells)
    book.metadata["widgets"] = {STATE: {"version_major": 2, "version_minor": 0, "state": state}}
    return book


def pictures(page):
    return re.findall(r'<img[^>]*src="data:image/png;base64,([^"]+)"', page)


def without_state(book):
    """As `jupyter nbconvert --to html --ClearMetadataPreprocessor.enabled=True` makes it."""
    asked = Config({"ClearMetadataPreprocessor": {"enabled": True}})
    return HTMLExporter(config=asked).from_notebook_node(book)[0]


def test_every_view_is_a_picture_where_no_state_was_saved(book):
    bare = nbf.new_notebook(cells=book.cells)
    page = HTMLExporter().from_notebook_node(bare)[0]
    for name, picture in zip(VIEWS, pictures(page), strict=True):
        height, width, _ = imread(io.BytesIO(base64.b64decode(picture))).shape
        assert width > 250, name
        assert height > 80, name
    assert MODEL not in page.partition("<body")[2]


def test_state_that_was_saved_needs_a_network_and_clearing_it_brings_the_pictures(book):
    """What the README tells: nbconvert prefers live widgets, whose scripts it fetches from elsewhere."""
    assert pictures(HTMLExporter().from_notebook_node(book)[0]) == []
    page = without_state(book)
    assert len(pictures(page)) == len(VIEWS)
    assert MODEL not in page.partition("<body")[2]
    assert ClearMetadataPreprocessor().enabled is False  # so it must be asked for


@pytest.mark.browser
def test_the_pictures_are_seen_without_a_network(chromium, book, tmp_path):
    (tmp_path / "book.html").write_text(without_state(book))
    page = chromium.new_page(viewport={"width": 1000, "height": 800})
    page.context.set_offline(True)
    page.goto((tmp_path / "book.html").as_uri(), wait_until="domcontentloaded")
    images = page.locator(".jp-OutputArea img")
    widths = "all => all.filter((image) => image.naturalWidth > 250).length"
    comes(lambda: images.evaluate_all(widths), len(VIEWS))
    page.screenshot(path=str(tmp_path / "book.png"), full_page=True)
    page.close()
