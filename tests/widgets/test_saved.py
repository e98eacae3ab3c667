"""A notebook that was saved with views in it, as nbconvert shows it to a reader without a kernel."""

import base64
import io
import re

import nbformat.v4 as nbf
import pytest
import scenes
from matplotlib.image import imread
from nbconvert import HTMLExporter
from saved import hsdp_metadata

from ckptlab.explorer.session import Session
from ckptlab.layout import Layout
from ckptlab.widgets.tensor import TensorPanel, mesh_view
from ckptlab.widgets.view import SceneView

VIEWS = {
    "scene": lambda: SceneView(scenes.hsdp()),
    "tensor": lambda: TensorPanel(Session(hsdp_metadata())),
    "mesh": lambda: mesh_view(Layout.parse("replicate=2, shard=2", "Replicate, Shard(0)"), hosts=2),
}


def exported(view):
    """The page that nbconvert makes of a notebook whose only output is the view."""
    bundle = view._repr_mimebundle_()
    data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
    cell = nbf.new_code_cell("view", outputs=[nbf.new_output("execute_result", data=data, metadata=metadata)])
    return HTMLExporter().from_notebook_node(nbf.new_notebook(cells=[cell]))[0]


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_a_picture_in_a_page(name):
    page = exported(VIEWS[name]())
    (picture,) = re.findall(r'<img[^>]*src="data:image/png;base64,([^"]+)"', page)
    height, width, _ = imread(io.BytesIO(base64.b64decode(picture))).shape
    assert width > 250
    assert height > 100
    assert "application/vnd.jupyter.widget-view+json" not in page.partition("<body")[2]
