"""How soon the front end draws and lights up: many chunks, many ranks, in Chromium on a stub model.

    python tests/bench/drawing.py [part of a case's name ...]

Prints a table in milliseconds: the scene made from metadata and packed (of processor time), first drawn
(from the script's start to the painted frame), and then, over 60 moves of the pointer, from the move to
the painted frame (median and 95th of 100). The page's own frames come every 16.7 ms. The goals, at 16,384
chunks: lit up within 20 ms, first drawn within a second.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from browser import HOVERS, LAUNCH, LIGHT, stub_page
from playwright.sync_api import sync_playwright

from ckptlab.explorer.scenes import layout_scene, stored_scene
from ckptlab.explorer.tensor import Look
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.widgets.pack import pack

SHAPE = (53_248, 16_384)

CASES = {
    "1,024 chunks": ("stored", "32x32", "Shard(0), Shard(1)", SHAPE),
    "16,384 chunks of 16,384 ranks": ("stored", "128x128", "Shard(0), Shard(1)", SHAPE),
    "16,384 chunks of 1,024 ranks": ("blocks", "1024", "Shard(0)", SHAPE),
    "16,384 ranks in 128 copies": ("held", "replicate=128, shard=128", "Replicate, Shard(0)", SHAPE),
    "16,384 ranks on four axes": (
        "held",
        "pp=8, dp=16, fsdp=16, tp=8",
        "Replicate, Replicate, Shard(0), Shard(1)",
        SHAPE,
    ),
    "65,536 chunks": ("stored", "256x256", "Shard(0), Shard(1)", SHAPE),
}

# The page's own clock: from before the module runs to the task after the frame that it drew.
FIRST = """() => new Promise((done) => requestAnimationFrame(() => {
  const { port1, port2 } = new MessageChannel();
  port2.onmessage = () => done(performance.now() - window.began);
  port1.postMessage(0);
}))"""


def scene_of(kind, mesh, placements, shape):
    """The scene, and how many milliseconds it took to make."""
    layout, tensor = Layout.parse(mesh, placements), Tensor("w", "bfloat16", shape)
    if kind == "held":
        began = time.process_time()
        scene = layout_scene(layout, tensor, hosts=8)
        return scene, 1000 * (time.process_time() - began)
    if kind == "blocks":  # each rank holds 16 rows of blocks
        layout = Layout.parse(mesh, "StridedShard(0, split_factor=16)")
    metadata = metadata_of([tensor], layout)
    began = time.process_time()
    scene = stored_scene(metadata, "w", Look(), hosts=8)
    return scene, 1000 * (time.process_time() - began)


def measure(browser, scene):
    """First drawing, then each hover over its tensor, in milliseconds."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    html = stub_page(scene, LIGHT).replace(
        "<script type", "<script>window.began = performance.now()</script><script type"
    )
    page.set_content(html)
    first = page.evaluate(FIRST)
    took = {}
    for panel in scene.panels:
        points = [((k * 37 % 101) / 101 * panel.width, (k * 17 % 97) / 97 * panel.height) for k in range(60)]
        took[panel.name] = sorted(page.evaluate(HOVERS, [panel.name, points]))
    page.close()
    return first, took


def main():
    print(
        f"{'':32} {'scene':>7} {'pack':>6} {'KB':>6} {'first':>7}   hover: mesh, tensor (median / 95 %)\n"
        f"{'goal at 16,384 chunks':32} {'':>7} {'':>6} {'':>6} {1000:7}   20, 20"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**LAUNCH)
        for name, case in CASES.items():
            if not any(part in name for part in sys.argv[1:] or [""]):
                continue
            scene, made = scene_of(*case)
            began = time.process_time()
            _, columns = pack(scene)
            packed = 1000 * (time.process_time() - began)
            first, took = measure(browser, scene)
            hover = ", ".join(
                f"{statistics.median(t):.1f} / {t[int(0.95 * len(t))]:.1f}" for t in took.values()
            )
            marks = " + ".join(f"{len(panel.marks):,}" for panel in scene.panels)
            numbers = f"{made:7.0f} {packed:6.1f} {len(columns) / 1e3:6.0f} {first:7.0f}"
            print(f"{name:32} {numbers}   {hover}   ({marks} marks)", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
