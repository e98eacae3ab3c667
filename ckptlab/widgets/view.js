/* Draws any packed scene (see pack.py): panels of marks, words, a legend; pointing and picking.
   It decides nothing of what is shown, fetches nothing, and tells Python only what was picked. */

const FILLED = 0, OUTLINED = 1, HATCHED = 2;
const DIM = 0.16;     // of a mark's fill, while others are pointed at
const DENSE = 256;    // tiles beyond which they are painted on a canvas, without words
const TALL = 250;     // most pixels a panel is high
const CELL = 92;      // most pixels a device is wide
const BAR = 22;       // pixels the thickest bar takes
const LINE = 17;      // pixels a line of words takes
const SVG = new Set(["svg", "g", "rect", "text", "defs", "pattern", "path"]);
const ARRAYS = {
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array, float32: Float32Array,
};

function make(tag, attributes = {}, ...children) {
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// ---- the packed scene

function unpack(header, raw) {
  const bytes = new Uint8Array(raw.buffer ?? raw, raw.byteOffset ?? 0, raw.byteLength).slice();
  const column = ([type, start, count, texts]) => {
    if (type !== "text") return new ARRAYS[type](bytes.buffer, start, count);
    return texts ? new TextDecoder().decode(bytes.subarray(start, start + count)).split("\0") : [];
  };
  const panels = (header.panels ?? []).map((panel) => ({
    ...panel,
    ...Object.fromEntries(["box", "colour", "style", "first", "ranks", "labels", "depth", "fold"]
      .filter((k) => panel[k]).map((k) => [k, column(panel[k])])),
    facts: panel.facts.map((fact) => ({ ...fact, values: column(fact.values), words: column(fact.words) })),
  }));
  return { title: header.title ?? "", colours: header.colours ?? [], legend: header.legend ?? [], panels };
}

function humanBytes(n) {      // to the digit what scene.human_bytes says, halves to even
  const size = n < 0n ? -n : n;
  if (size < 1024n) return `${n} B`;
  let power = 0, value = Number(size);
  do { value /= 1024; power++; } while (value >= 999.5 && power < 5);
  const digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  const unit = 1n << BigInt(10 * power), scaled = BigInt(Number(size)) * 10n ** BigInt(digits);
  const rest = 2n * (scaled % unit);
  let whole = scaled / unit;
  if (rest > unit || (rest === unit && whole % 2n)) whole++;
  const figures = String(whole).padStart(digits + 1, "0"), point = figures.length - digits;
  const text = digits ? `${figures.slice(0, point)}.${figures.slice(point)}` : figures;
  return `${n < 0n ? "-" : ""}${text} ${"BKMGTP"[power]}iB`;
}

function show(fact, mark) {
  const value = fact.values.subarray(mark * fact.wide, (mark + 1) * fact.wide);
  if (fact.kind === "word") return fact.words[Number(value[0])];
  if (fact.kind === "bytes") return humanBytes(BigInt(value[0]));
  if (fact.kind === "count") return String(value[0]).replace(/\B(?=(\d{3})+$)/g, ",");
  const half = fact.wide / 2;
  return `[${Array.from({ length: half }, (_, k) => `${value[k]}:${value[k] + value[k + half]}`).join(", ")}]`;
}

function told(data, mark) {      // the facts that a mark has, in words
  return data.facts.map((fact) => [fact.label, show(fact, mark)]).filter(([, words]) => words);
}

function ink(colour) {        // black or white, as palette.ink
  const [r, g, b] = [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16) / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05) ** 2 > 0.05 * 1.05 ? "#000000" : "#ffffff";
}

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

class Rows {      // the marks as lines of a table, the first column a tree; what Panel is for rectangles
  constructor(data, view) {
    Object.assign(this, { data, view, n: data.style.length, tiles: false, focus: Math.max(0, data.chosen) });
    const titles = ["key", ...data.facts.map((fact) => fact.label)], numbers = data.facts.map((fact) => fact.kind !== "word");
    const head = make("tr", {}, ...titles.map((text, k) => make("th", { scope: "col", class: numbers[k - 1] ? "ckl-number" : "" }, text)));
    const most = data.facts.map((fact) => (fact.kind === "bytes" ? fact.values.reduce((a, v) => Math.max(a, Number(v)), 1) : 0));
    this.lines = Array.from({ length: this.n }, (_, i) => this.line(i, numbers, most));
    this.table = make("table", { class: "ckl-rows", role: "treegrid", "aria-label": data.title },
      make("thead", {}, head), make("tbody", {}, ...this.lines));
    this.figure = make("figure", { class: "ckl-panel ckl-wide", "aria-label": data.title, "data-panel": data.name },
      this.n ? this.table : "", data.caption ? make("figcaption", {}, data.caption) : "");
    this.table.addEventListener("click", (ev) => { const at = this.lineOf(ev); if (at >= 0) this.press(at); });
    this.table.addEventListener("keydown", (ev) => this.key(ev));
  }

  line(i, numbers, most) {
    const { data } = this, fold = data.fold[i], name = make("td", { style: `padding-left:${4 + 15 * data.depth[i]}px` },
      make("span", { class: "ckl-fold", "aria-hidden": "true" }, ["", "\u25b8", "\u25be"][fold]), data.labels[i]);
    const cells = data.facts.map((fact, k) => {
      const bar = most[k] ? `--ckl-share:${(100 * Number(fact.values[i])) / most[k]}%` : "";
      return make("td", { class: `${numbers[k] ? "ckl-number" : ""} ${bar ? "ckl-bar" : ""}`, style: bar }, show(fact, i));
    });
    const state = fold ? { "aria-expanded": String(fold === 2) } : {};
    return make("tr", {
      role: "row", tabindex: i === this.focus ? "0" : "-1", "aria-level": data.depth[i] + 1,
      "aria-selected": String(i === data.chosen), "data-mark": i, ...state,
    }, name, ...cells);
  }

  lineOf(ev) { return Number(ev.target.closest("[data-mark]")?.dataset.mark ?? -1); }

  press(i) { this.focus = i; this.view.choose(this, i); }

  key(ev) {
    const fold = this.data.fold[this.focus];
    const to = { ArrowDown: this.focus + 1, ArrowUp: this.focus - 1, Home: 0, End: this.n - 1 }[ev.key];
    if (to !== undefined) {
      this.lines[this.focus].setAttribute("tabindex", "-1");
      this.focus = Math.max(0, Math.min(this.n - 1, to));
      this.refocus();
    } else if (ev.key === "Enter" || ev.key === " " || (ev.key === "ArrowRight" && fold === 1) || (ev.key === "ArrowLeft" && fold === 2)) {
      this.press(this.focus);
    } else return;
    ev.preventDefault();
    ev.stopPropagation();
  }

  refocus() {
    this.focus = Math.min(this.focus, this.n - 1);
    this.lines[this.focus]?.setAttribute("tabindex", "0");
    this.lines[this.focus]?.focus();
  }

  ranks(i) { return this.data.ranks.subarray(this.data.first[i], this.data.first[i + 1]); }
  summary(i) { return this.data.labels[i]; }
  ideal() { return null; }
  arrange() {}
  light() {}
}

class View {
  constructor(model, el) {
    this.model = model;
    this.uid = `ckl${Math.random().toString(36).slice(2)}`;      // patterns are named page-wide
    this.probe = make("span", { class: "ckl-probe" }, make("span", { class: "ckl-probe-neutral" }));
    this.root = make("div", { class: "ckl-view" });
    this.tip = make("div", { class: "ckl-tip", role: "tooltip", popover: "manual" });
    this.status = make("div", { class: "ckl-status", role: "status", "aria-live": "polite" });
    el.append(this.root);
    this.ruler = make("canvas").getContext("2d");
    this.probe.addEventListener("transitionend", () => this.retint());      // any change of theme, whatever made it
    this.resized = new ResizeObserver(() => requestAnimationFrame(() => this.arrange()));
    this.resized.observe(this.root);
    // Words and columns of a scene come one after the other: it is drawn when both are there.
    const rebuild = () => { this.stale ??= Promise.resolve().then(() => { this.stale = null; this.build(); }); };
    const refresh = () => this.refresh();
    this.heard = { "change:header": rebuild, "change:columns": rebuild, "change:rank": refresh, "change:picked": refresh };
    for (const [event, told] of Object.entries(this.heard)) model.on(event, told);
    this.build();
  }

  close() {
    this.resized.disconnect();
    for (const [event, told] of Object.entries(this.heard)) this.model.off(event, told);
  }

  build() {
    this.scene = unpack(this.model.get("header"), this.model.get("columns"));
    this.at = null;
    this.patterns = make("defs");
    const held = (this.panels ?? []).find((panel) => panel.refocus && panel.figure.contains(document.activeElement));
    this.panels = this.scene.panels.map((panel) => (panel.kind === "rows" ? new Rows(panel, this) : new Panel(panel, this)));
    const some = this.panels.filter((panel) => panel.n && panel.stage);
    this.status.dataset.hint = some.some((panel) => panel.data.kind === "devices") ? this.model.get("hint") ?? "" : "";
    const parts = [
      this.scene.title && make("div", { class: "ckl-title", role: "heading", "aria-level": "3" }, this.scene.title),
      this.panels.length ? make("div", { class: "ckl-panels" }, ...this.panels.map((panel) => panel.figure))
        : make("div", { class: "ckl-empty" }, "nothing to show"),
      this.scene.legend.length && make("div", { class: "ckl-legend", role: "list", "aria-label": "legend" },
        ...this.scene.legend.map((key) => this.key(key))),
      some.length && this.status,
    ];
    this.root.replaceChildren(make("svg", { class: "ckl-patterns", "aria-hidden": "true" }, this.patterns), this.probe,
      ...parts.filter(Boolean), this.tip);
    const again = held && this.panels.find((panel) => panel.refocus && panel.data.name === held.data.name);
    if (again) { again.focus = held.focus; again.refocus(); }
    this.arranged = null;
    this.point(null);
    this.readTheme();
    this.arrange();
  }

  key({ text, colour, style }) {
    const name = this.colour(colour), fill = style === FILLED ? name : style === HATCHED ? this.hatch(colour) : "none";
    const swatch = make("rect", { x: 1, y: 1, width: 14, height: 10, rx: 2, style: `fill:${fill};stroke:${name};stroke-width:${style === OUTLINED ? 2 : 1}` });
    return make("span", { class: "ckl-key", role: "listitem" }, make("svg", { width: 16, height: 12, "aria-hidden": "true" }, swatch), text);
  }

  // ---- colours, which follow the theme

  colour(category) { return category < 0 ? "var(--ckl-neutral)" : this.scene.colours[category % this.scene.colours.length]; }

  painted(category) { return category < 0 ? this.theme.neutral : this.colour(category); }

  readTheme() {
    const style = getComputedStyle(this.probe);
    this.theme = { text: style.color, neutral: getComputedStyle(this.probe.firstChild).color };
    this.font = `12px ${style.fontFamily}`;
  }

  retint() {
    this.readTheme();
    for (const panel of this.panels) panel.layers = null;
    this.refresh();
  }

  hatch(category) {
    const id = `${this.uid}-${category}`, name = this.colour(category);
    if (!this.patterns.querySelector(`[id="${id}"]`)) {
      const back = make("rect", { width: 7, height: 7, style: `fill:${name};fill-opacity:.22` });
      const line = make("path", { d: "M-1 8L8-1M-4.5 4.5L4.5-4.5M2.5 11.5L11.5 2.5", style: `stroke:${name};stroke-width:2` });
      this.patterns.append(make("pattern", { id, width: 7, height: 7, patternUnits: "userSpaceOnUse" }, back, line));
    }
    return `url(#${id})`;
  }

  // ---- places

  measure(text) {
    this.ruler.font = this.font;
    return this.ruler.measureText(text).width;
  }

  arrange() {
    const width = this.root.clientWidth;
    if (!width || width === this.arranged) return;
    this.arranged = width;
    this.readTheme();      // a view that was built before it stood in the page had no fonts to measure with
    for (const panel of this.panels) {
      const ideal = panel.ideal();
      if (ideal) panel.figure.style.flex = `0 1 ${ideal}px`;
    }
    for (const panel of this.panels) panel.arrange(panel.figure.clientWidth);
    this.refresh();
  }

  // ---- what is lit

  pickedIn(panel) {
    const picked = this.model.get("picked") ?? {};
    if (picked.panel !== panel.data.name || !(picked.mark < panel.n)) return null;
    const ranks = panel.ranks(picked.mark), [only] = ranks;      // Python may have let go of its rank since
    return ranks.length === 1 && only !== this.model.get("rank") ? null : picked.mark;
  }

  chosen() {      // ranks that stay lit
    const rank = this.model.get("rank");
    if (rank >= 0) return this.panels.some((panel) => panel.data.ranks.includes(rank)) ? [rank] : [];
    return this.panels.flatMap((panel) => { const i = this.pickedIn(panel); return i === null ? [] : [...panel.ranks(i)]; });
  }

  point(panel, i = -1, x = 0, y = 0) {
    const at = panel && i >= 0 ? { panel, i } : null;
    const same = at?.panel === this.at?.panel && at?.i === this.at?.i;
    this.at = at;
    if (!same) this.refresh();
    if (!at) { this.tip.hidePopover?.(); return; }
    if (!same) this.fillTip();
    this.tip.showPopover?.();
    const { width, height } = this.tip.getBoundingClientRect();
    const place = (v, size, most) => Math.max(4, v + 14 + size > most - 4 ? v - 14 - size : v + 14);
    this.tip.style.left = `${place(x, width, window.innerWidth)}px`;
    this.tip.style.top = `${place(y, height, window.innerHeight)}px`;
  }

  fillTip() {
    const { panel: { data }, i } = this.at;
    const rows = told(data, i).map(([label, words]) => make("tr", {}, make("th", {}, label), make("td", {}, words)));
    this.tip.replaceChildren(data.labels[i] ? make("strong", {}, data.labels[i]) : "", make("table", {}, ...rows));
  }

  choose(panel, i) {
    const ranks = panel ? panel.ranks(i) : [], rank = ranks.length === 1 ? ranks[0] : -1;
    const again = !panel || this.pickedIn(panel) === i || (!panel.tiles && rank >= 0 && rank === this.model.get("rank"));
    this.model.set("picked", again ? {} : { panel: panel.data.name, mark: i });
    this.model.set("rank", again ? -1 : rank);
    this.model.save_changes();
    this.refresh();
  }

  refresh() { this.frame ??= requestAnimationFrame(() => { this.frame = null; this.light(); }); }

  light() {
    const { at } = this, chosen = this.chosen(), bright = new Set([...chosen, ...(at ? at.panel.ranks(at.i) : [])]);
    const kept = new Set(chosen), all = !at && !bright.size;
    for (const panel of this.panels) {
      const { first, ranks } = panel.data, here = at?.panel === panel ? at.i : null, own = this.pickedIn(panel);
      const shares = (i, set) => { for (let k = first[i]; k < first[i + 1]; k++) if (set.has(ranks[k])) return 1; return 0; };
      const lit = all ? null : Uint8Array.from({ length: panel.n }, (_, i) => i === here || i === own ? 1 : shares(i, bright));
      panel.light(lit, here, (i) => i === own || panel.ranks(i).length > 0 && panel.ranks(i).every((r) => kept.has(r)));
    }
    const owner = this.panels.find((panel) => this.pickedIn(panel) !== null);
    const rank = this.model.get("rank");
    this.status.textContent = at ? at.panel.summary(at.i)
      : rank >= 0 ? `selected: rank ${rank}` : owner ? `selected: ${owner.summary(this.pickedIn(owner))}` : "";
  }
}

function render({ model, el }) {
  const view = new View(model, el);
  return () => view.close();
}

export default { render };
