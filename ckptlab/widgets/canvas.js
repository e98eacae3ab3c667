/* Part of the widget's one module: many marks on a canvas; a bright layer or a faint one, and what is lit on top. */

class Canvas {
  constructor(panel, label) {
    this.panel = panel;
    this.node = make("canvas", { role: "img", tabindex: "0", "aria-label": label });
    this.stripes = new Map();
    this.forget();
  }

  forget() { this.layers = new Map(); }      // sizes, places or colours are no longer those of the layers

  layer(faint) {
    if (!this.layers.has(faint)) this.layers.set(faint, this.painted(faint));
    return this.layers.get(faint);
  }

  painted(faint) {
    const { panel } = this, canvas = make("canvas"), dpr = window.devicePixelRatio || 1;
    canvas.width = Math.round(panel.width * dpr);
    canvas.height = Math.round(panel.height * dpr);
    const ctx = canvas.getContext("2d");
    ctx.scale(dpr, dpr);
    this.paint(ctx, null, faint);
    return canvas;
  }

  paint(ctx, lit, faint) {
    const { data, corners, hidden, view, n } = this.panel, { colour, style } = data, dim = faint ? DIM : 1;
    const set = { colour: null, alpha: null };      // what the context is at: to set it costs more than to paint
    const ink = (i, alpha) => {
      if (set.alpha !== alpha) ctx.globalAlpha = set.alpha = alpha;
      if (set.colour !== colour[i]) ctx.fillStyle = ctx.strokeStyle = view.painted(set.colour = colour[i]);
    };
    for (const outlines of [false, true]) {
      for (let i = 0; i < n; i++) {
        if ((lit && !lit[i]) || hidden[i] || (style[i] === OUTLINED) !== outlines || (lit && style[i] === GROUND)) continue;
        const x = corners[4 * i], y = corners[4 * i + 1], w = corners[4 * i + 2] - x, h = corners[4 * i + 3] - y;
        if (lit && !outlines) ctx.clearRect(x, y, w, h);
        const striped = style[i] === HATCHED && Math.min(w, h) >= FINE;
        ink(i, style[i] === GROUND ? 0.35 : dim * (striped ? 0.22 : style[i] === HATCHED ? 0.45 : 1));
        if (outlines) ctx.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1); else ctx.fillRect(x, y, w, h);
        if (!striped) continue;
        ctx.globalAlpha = set.alpha = dim;
        ctx.fillStyle = this.striped(ctx, view.painted(colour[i]));
        ctx.fillRect(x, y, w, h);
        set.colour = null;
      }
    }
    ctx.globalAlpha = 1;
  }

  striped(ctx, colour) {      // the pattern of view.hatch
    const dpr = window.devicePixelRatio || 1, name = `${colour} ${dpr}`;
    if (!this.stripes.has(name)) {
      const cell = make("canvas"), size = Math.round(7 * dpr);
      cell.width = cell.height = size;
      const pen = cell.getContext("2d");
      pen.scale(size / 7, size / 7);
      Object.assign(pen, { strokeStyle: colour, lineWidth: 2 });
      pen.stroke(new Path2D("M-1 8L8-1M-4.5 4.5L4.5-4.5M2.5 11.5L11.5 2.5"));
      const pattern = ctx.createPattern(cell, "repeat");
      pattern.setTransform(new DOMMatrix().scale(7 / size));
      this.stripes.set(name, pattern);
    }
    return this.stripes.get(name);
  }

  light(lit, at, picked) {
    const { node, panel } = this, layer = this.layer(Boolean(lit)), dpr = window.devicePixelRatio || 1, ctx = node.getContext("2d");
    if (node.width !== layer.width) node.width = layer.width;
    if (node.height !== layer.height) node.height = layer.height;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, node.width, node.height);
    ctx.drawImage(layer, 0, 0);
    ctx.setTransform(dpr, 0, 0, dpr, 0, 0);
    if (lit) this.paint(ctx, lit, false);
    for (const i of new Set([at, picked])) {
      if (i === null || i < 0 || panel.hidden[i]) continue;
      const [x0, y0, x1, y1] = panel.corners.subarray(4 * i, 4 * i + 4);
      Object.assign(ctx, { strokeStyle: panel.view.theme.text, lineWidth: 2 });
      ctx.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
  }
}
