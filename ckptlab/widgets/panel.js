/* Part of the widget's one module: a panel of rectangles, its layout in pixels, its words, pointing and keys. */

// ---- where words stand

function sideOf(note, panel) {
  if (note.x < 0) return "left";
  if (note.x > panel.width) return "right";
  return note.y < 0 ? "top" : note.y > panel.height ? "bottom" : null;
}

function lanes(panel, measure) {      // notes outside the panel stand in lanes round it, nearest first
  const sides = { left: new Map(), right: new Map(), top: new Map(), bottom: new Map() };
  for (const note of panel.notes) {
    const side = sideOf(note, panel);
    if (!side) continue;
    const upright = side === "left" || side === "right", key = upright ? note.x : note.y;
    const size = upright !== note.turned ? measure(note.text) + 8 : LINE;
    sides[side].set(key, Math.max(sides[side].get(key) ?? 0, size));
  }
  for (const [side, found] of Object.entries(sides)) {
    const outward = side === "left" || side === "top" ? -1 : 1;
    let depth = 0;
    for (const key of [...found.keys()].sort((a, b) => outward * (a - b))) {
      const size = found.get(key);
      found.set(key, [depth, depth + size]);
      depth += size;
    }
    found.depth = depth;
  }
  return sides;
}

const apart = (a, b) => a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];

class Panel {
  constructor(data, view) {
    const n = data.style.length, tiles = data.kind === "tiles";
    Object.assign(this, { data, view, n, tiles, dense: tiles && n > DENSE, focus: 0 });
    this.stage = make("div", { class: "ckl-stage" });
    this.figure = make("figure", { class: `ckl-panel ckl-${data.kind}`, "aria-label": data.title, "data-panel": data.name },
      make("div", { class: "ckl-heading" }, data.title), make("figcaption", {}, data.caption), this.stage);
    if (!this.n) {
      this.stage.append(data.caption ? "" : make("div", { class: "ckl-empty" }, "nothing to show"));
      return;
    }
    this.words = make("svg", { class: "ckl-words" });
    this.stage.append(this.dense ? this.makeCanvas() : this.makeShapes(), this.words);
    this.stage.addEventListener("pointermove", (ev) => view.point(this, this.hit(ev), ev.clientX, ev.clientY));
    this.stage.addEventListener("pointerleave", () => view.point(null));
    this.stage.addEventListener("click", (ev) => this.click(ev));
    this.stage.addEventListener("keydown", (ev) => this.key(ev));
    this.stage.addEventListener("focusin", (ev) => this.focused(ev.target));
    this.stage.addEventListener("focusout", () => view.point(null));
  }

  makeCanvas() {
    const label = [this.data.title, this.data.caption].filter(Boolean).join(". ");
    return (this.canvas = make("canvas", { role: "img", tabindex: "0", "aria-label": label }));
  }

  makeShapes() {
    this.shapes = Array.from({ length: this.n }, (_, i) => {
      const style = this.data.style[i], name = this.view.colour(this.data.colour[i]);
      const rect = make("rect", { rx: this.data.kind === "devices" ? 4 : 2 });
      rect.style.stroke = style === FILLED ? "none" : name;
      rect.style.fill = style === FILLED ? name : style === HATCHED ? this.view.hatch(this.data.colour[i]) : "none";
      const dark = style === FILLED && this.data.colour[i] >= 0;
      const text = make("text", dark ? { fill: ink(name) } : { class: "ckl-bare" });
      return make("g", {
        role: "option", tabindex: i ? "-1" : "0", "aria-selected": "false", "aria-label": this.summary(i), "data-mark": i,
        class: style === OUTLINED ? "ckl-outlined" : "",
      }, rect, text);
    });
    return (this.svg = make("svg", {
      role: "listbox", "aria-label": this.data.title, "aria-multiselectable": "true",
    }, ...this.shapes));
  }

  ranks(i) { return this.data.ranks.subarray(this.data.first[i], this.data.first[i + 1]); }

  summary(i) {
    return [this.data.labels[i], ...told(this.data, i).map((fact) => fact.join(": "))].filter(Boolean).join("; ");
  }

  // ---- layout: from units to pixels

  sizes(k) { return this.data.box.filter((_, j) => j % 4 === k); }

  widest() {      // pixels that a panel of fixed ratio takes where it may
    const { width, height, kind } = this.data, high = (TALL * width) / height;
    return kind === "devices" ? Math.min(high, (CELL * width) / Math.min(width, ...this.sizes(2))) : high;
  }

  arrange(width) {
    if (!this.n || !width) return;
    const { data } = this, measure = (text) => this.view.measure(text);
    this.lanes = lanes(data, measure);
    const { left, right, top, bottom } = this.lanes;
    let w = Math.max(24, width - left.depth - right.depth - 2), h = TALL;
    if (data.kind === "bars") h = Math.min(1200, (BAR * data.height) / (Math.max(...this.sizes(3)) || data.height));
    else if (data.rigid) {
      w = Math.max(24, Math.min(w, this.widest()));
      h = Math.max(16, (w * data.height) / data.width);
    }
    this.plot = { x: left.depth + 1, y: top.depth + 1, w: Math.floor(w), h: Math.floor(h) };
    this.width = this.plot.x + this.plot.w + right.depth + 1;
    this.height = this.plot.y + this.plot.h + bottom.depth + 1;
    this.stage.style.width = `${this.width}px`;
    this.stage.style.height = `${this.height}px`;
    const { plot } = this;
    Object.assign(this.stage.dataset, { left: plot.x, top: plot.y, scaleX: plot.w / data.width, scaleY: plot.h / data.height });
    this.words.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.snap();
    this.placeWords(measure);
    this.placeLabels(measure);
    if (this.dense) this.layers = null; else this.placeShapes();
  }

  ideal() {
    if (!this.data.rigid || !this.n) return null;
    const { left, right } = lanes(this.data, (text) => this.view.measure(text));
    return Math.max(225, Math.ceil(left.depth + right.depth + 2 + this.widest()));
  }

  x(units) { return this.plot.x + (units * this.plot.w) / this.data.width; }
  y(units) { return this.plot.y + (units * this.plot.h) / this.data.height; }

  snap() {      // corners on whole device pixels, and which mark lies under each pixel
    const { data, n } = this, dpr = window.devicePixelRatio || 1, on = (v) => Math.round(v * dpr) / dpr;
    this.corners = new Float32Array(4 * n);
    this.pick = new Int32Array(Math.ceil(this.width) * Math.ceil(this.height));
    this.stride = Math.ceil(this.width);
    for (let i = 0; i < n; i++) {
      const [x, y, w, h] = data.box.subarray(4 * i, 4 * i + 4);
      const x0 = on(this.x(x)), y0 = on(this.y(y)), x1 = on(this.x(x + w)), y1 = on(this.y(y + h));
      const least = Math.min(x1 - x0, y1 - y0), gap = data.kind === "bars" ? 0 : least >= 12 ? 2 : least >= 5 ? 1 : 0;
      this.corners.set([x0, y0, Math.max(x0 + 1 / dpr, x1 - gap), Math.max(y0 + 1 / dpr, y1 - gap)], 4 * i);
    }
    const order = [...data.style.keys()].sort((a, b) => (data.style[b] === OUTLINED) - (data.style[a] === OUTLINED) || a - b);
    for (const i of order) {
      const [x0, y0, x1, y1] = this.corners.subarray(4 * i, 4 * i + 4).map(Math.round);
      for (let y = y0; y < Math.max(y1, y0 + 1); y++) {
        this.pick.fill(i + 1, y * this.stride + x0, y * this.stride + Math.max(x1, x0 + 1));
      }
    }
  }

  spot(note) {
    const side = sideOf(note, this.data), { plot } = this;
    let x = this.x(note.x), y = this.y(note.y);
    if (side === "left" || side === "right") {
      const [near, far] = this.lanes[side].get(note.x).map((d) => (side === "left" ? plot.x - d : plot.x + plot.w + d));
      const [low, high] = near < far ? [near, far] : [far, near];
      x = note.turned || note.anchor === "middle" ? (low + high) / 2 : note.anchor === "end" ? high - 4 : low + 4;
    } else if (side) {
      const [near, far] = this.lanes[side].get(note.y).map((d) => (side === "top" ? plot.y - d : plot.y + plot.h + d));
      y = (near + far) / 2;
    }
    return [x, y];
  }

  placeWords(measure) {
    this.taken = [];
    this.words.replaceChildren();
    for (const note of this.data.notes) {
      const length = measure(note.text), shift = { start: 0, middle: length / 2, end: length }[note.anchor];
      const clamp = (v, most) => Math.max(0, Math.min(v, most - length));
      let [x, y] = this.spot(note), room;
      if (note.turned) {
        const low = clamp(y + shift - length, this.height);
        y = low + length - shift;
        room = [x - 8, low, x + 8, low + length];
      } else {
        const low = clamp(x - shift, this.width);
        x = low + shift;
        room = [low, y - 7, low + length, y + 7];
      }
      if (this.taken.some((other) => !apart(room, other))) continue;
      this.taken.push(room);
      const turn = note.turned ? { transform: `rotate(-90 ${x} ${y})` } : {};
      this.words.append(make("text", { x, y, "text-anchor": note.anchor, ...turn }, note.text));
    }
  }

  placeLabels(measure) {      // inside a mark where there is room; of bars and frames also at their edge
    const { data, corners } = this;
    this.labels = this.dense ? [] : data.labels.map((label, i) => {
      const [x0, y0, x1, y1] = corners.subarray(4 * i, 4 * i + 4), frame = data.style[i] === OUTLINED;
      if (!label || y1 - y0 < 13) return null;
      const length = measure(label), x = (x0 + x1) / 2, y = (y0 + y1) / 2, spots = [];
      const spot = (low, mid, inside) => ({ x: low + length / 2, y: mid, inside, room: [low, mid - 7, low + length, mid + 7] });
      if (x1 - x0 >= length + 6) spots.push(spot(x - length / 2, y, true));
      if (x1 - x0 >= length + 6 && frame && data.kind === "devices") spots.push(spot(x0 + 6, y0 + 10, true));
      if (data.kind === "bars" && x1 + length + 6 < this.width) spots.push(spot(x1 + 6, y, false));
      const found = spots.find(({ room }) => !this.taken.some((other) => !apart(room, other))
        && !data.labels.some((_, j) => j !== i && data.style[j] !== OUTLINED
          && !apart(room, corners.subarray(4 * j, 4 * j + 4))));
      if (found) this.taken.push(found.room);
      return found ?? null;
    });
  }

  placeShapes() {
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.shapes.forEach((g, i) => {
      const [rect, text] = g.children, [x0, y0, x1, y1] = this.corners.subarray(4 * i, 4 * i + 4);
      const inset = this.data.style[i] === FILLED ? 0 : 1, spot = this.labels[i];
      const box = { x: x0 + inset, y: y0 + inset, width: Math.max(0, x1 - x0 - 2 * inset), height: Math.max(0, y1 - y0 - 2 * inset) };
      for (const [name, value] of Object.entries(box)) rect.setAttribute(name, value);
      text.textContent = spot ? this.data.labels[i] : "";
      text.classList.toggle("ckl-outside", Boolean(spot) && !spot.inside);
      if (spot) for (const [name, value] of [["x", spot.x], ["y", spot.y], ["text-anchor", "middle"]]) text.setAttribute(name, value);
    });
  }

  // ---- tiles on a canvas: one layer bright, one faint, and the marks that are lit on top

  layer(faint) {
    const canvas = make("canvas"), dpr = window.devicePixelRatio || 1;
    canvas.width = Math.round(this.width * dpr);
    canvas.height = Math.round(this.height * dpr);
    const ctx = canvas.getContext("2d");
    ctx.scale(dpr, dpr);
    this.paint(ctx, null, faint);
    return canvas;
  }

  paint(ctx, lit, faint) {
    const { colour, style } = this.data, { corners, view } = this;
    for (const outlines of [false, true]) {
      for (let i = 0; i < this.n; i++) {
        if ((lit && !lit[i]) || (style[i] === OUTLINED) !== outlines) continue;
        const x = corners[4 * i], y = corners[4 * i + 1], w = corners[4 * i + 2] - x, h = corners[4 * i + 3] - y;
        if (lit && !outlines) ctx.clearRect(x, y, w, h);
        ctx.globalAlpha = (faint ? DIM : 1) * (style[i] === HATCHED ? 0.45 : 1);
        ctx.fillStyle = ctx.strokeStyle = view.painted(colour[i]);
        if (outlines) ctx.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1); else ctx.fillRect(x, y, w, h);
      }
    }
    ctx.globalAlpha = 1;
  }

  light(lit, at, picked) {
    if (!this.plot) return;
    this.figure.dataset.lit = lit ? lit.reduce((sum, v) => sum + v, 0) : this.n;
    if (!this.dense) {
      this.shapes.forEach((g, i) => {
        g.classList.toggle("ckl-dim", Boolean(lit) && !lit[i]);
        g.classList.toggle("ckl-at", i === at);
        g.setAttribute("aria-selected", String(picked(i)));
      });
      return;
    }
    this.layers ??= { full: this.layer(false), faint: this.layer(true) };
    const { canvas, layers } = this, dpr = window.devicePixelRatio || 1, ctx = canvas.getContext("2d");
    if (canvas.width !== layers.full.width) canvas.width = layers.full.width;
    if (canvas.height !== layers.full.height) canvas.height = layers.full.height;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, canvas.width, canvas.height);
    ctx.drawImage(lit ? layers.faint : layers.full, 0, 0);
    ctx.setTransform(dpr, 0, 0, dpr, 0, 0);
    if (lit) this.paint(ctx, lit, false);
    for (const i of new Set([at, this.view.pickedIn(this)])) {
      if (i === null || i < 0) continue;
      const [x0, y0, x1, y1] = this.corners.subarray(4 * i, 4 * i + 4);
      Object.assign(ctx, { strokeStyle: this.view.theme.text, lineWidth: 2 });
      ctx.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
  }

  // ---- pointing

  hit(ev) {
    const frame = this.stage.getBoundingClientRect(), x = Math.floor(ev.clientX - frame.left), y = Math.floor(ev.clientY - frame.top);
    return x < 0 || x >= this.stride || y < 0 ? -1 : (this.pick[y * this.stride + x] ?? 0) - 1;
  }

  click(ev) {
    const named = ev.detail === 0 ? ev.target.closest("[data-mark]")?.dataset.mark : undefined;
    const i = named === undefined ? this.hit(ev) : Number(named);
    if (i < 0) return;
    this.aim(i);
    this.view.choose(this, i);
  }

  aim(i) {      // the one mark of the panel that Tab leads to
    if (!this.dense) {
      this.shapes[this.focus].setAttribute("tabindex", "-1");
      this.shapes[i].setAttribute("tabindex", "0");
    }
    this.focus = i;
  }

  focused(target) {
    if (target.dataset.mark) this.aim(Number(target.dataset.mark));
    if (target.matches(":focus-visible")) this.pointHere();
  }

  pointHere() {
    const [x0, y0, x1, y1] = this.corners.subarray(4 * this.focus, 4 * this.focus + 4), frame = this.stage.getBoundingClientRect();
    this.view.point(this, this.focus, frame.left + (x0 + x1) / 2, frame.top + (y0 + y1) / 2);
  }

  key(ev) {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1], Home: "Home", End: "End" }[ev.key];
    if (way) {
      this.aim(way === "Home" ? 0 : way === "End" ? this.n - 1 : this.next(...way));
      if (!this.dense) this.shapes[this.focus].focus();
      this.pointHere();
    } else if (ev.key === "Enter" || ev.key === " ") this.view.choose(this, this.focus);
    else if (ev.key === "Escape") this.view.choose(null);
    else return;
    ev.preventDefault();
    ev.stopPropagation();      // JupyterLab would move to another cell
  }

  next(dx, dy) {      // few marks: along the list; else and upwards or downwards: the nearest that way
    const step = dx + dy;
    if (this.data.kind === "bars" || (!this.tiles && dx)) return Math.max(0, Math.min(this.n - 1, this.focus + step));
    const middle = (i) => [this.corners[4 * i] + this.corners[4 * i + 2], this.corners[4 * i + 1] + this.corners[4 * i + 3]];
    const [x, y] = middle(this.focus);
    let best = this.focus, least = Infinity;
    for (let i = 0; i < this.n; i++) {
      const [u, v] = middle(i), ahead = (u - x) * dx + (v - y) * dy, aside = Math.abs((u - x) * dy) + Math.abs((v - y) * dx);
      if (ahead <= 1 || (this.data.style[i] === OUTLINED && !this.tiles) || ahead + 3 * aside >= least) continue;
      [best, least] = [i, ahead + 3 * aside];
    }
    return best;
  }
}
