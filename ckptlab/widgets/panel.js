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
  constructor(data, view, was) {      // `was`: the panel in whose place it stands
    const n = data.style.length, tiles = data.kind === "tiles";
    Object.assign(this, { data, view, n, tiles, dense: dense(data), focus: 0 });
    this.focus = Math.max(0, data.style.findIndex((_, i) => !this.frames(i)));
    this.stage = make("div", { class: "ckl-stage" });
    this.figure = make("figure", { class: `ckl-panel ckl-${data.kind}`, "aria-label": data.title, "data-panel": data.name },
      make("div", { class: "ckl-heading" }, data.title), make("figcaption", {}, data.caption), this.stage);
    if (!this.n) {
      this.stage.append(data.caption ? "" : make("div", { class: "ckl-empty" }, "nothing to show"));
      return;
    }
    this.words = make("svg", { class: "ckl-words" });
    if (this.dense) this.canvas = new Canvas(this, [data.title, data.caption].filter(Boolean).join(". "));
    this.stage.append(this.dense ? this.canvas.node : this.makeShapes(), this.words);
    if (tiles || (data.kind === "devices" && n > ROOMY)) {
      const same = was?.zoom && JSON.stringify(was.data.plane) === JSON.stringify(data.plane) && was.n === n;
      this.zoom = new Zoom(this, same ? was.zoom.seen : null);
      this.figure.prepend(this.zoom.bar);
    }
    this.stage.addEventListener("pointermove", (ev) => { if (!this.zoom?.dragged) view.point(this, this.hit(ev), ev.clientX, ev.clientY, this.element(ev)); });
    this.stage.addEventListener("pointerleave", () => view.point(null));
    this.stage.addEventListener("click", (ev) => this.click(ev));
    this.stage.addEventListener("keydown", (ev) => this.key(ev));
    this.stage.addEventListener("focusin", (ev) => this.focused(ev.target));
    this.stage.addEventListener("focusout", () => view.point(null));
  }

  makeShapes() {
    this.shapes = Array.from({ length: this.n }, (_, i) => {
      const style = this.data.style[i], name = this.view.colour(this.data.colour[i]);
      const rect = make("rect", { rx: this.data.kind === "devices" ? 4 : 2 });
      rect.style.stroke = style === FILLED || style === GROUND ? "none" : name;
      rect.style.fill = style === OUTLINED ? "none" : name;
      const dark = style === FILLED && this.data.colour[i] >= 0;
      const text = make("text", dark ? { fill: ink(name) } : { class: "ckl-bare" });
      return make("g", {
        role: "option", tabindex: i === this.focus ? "0" : "-1", "aria-selected": "false", "aria-label": this.summary(i), "data-mark": i,
        class: style === OUTLINED ? "ckl-outlined" : style === GROUND ? "ckl-ground" : "",
      }, rect, text);
    });
    return (this.svg = make("svg", {
      role: "listbox", "aria-label": this.data.title, "aria-multiselectable": "true",
    }, ...this.shapes));
  }

  frames(i) {      // whether a mark stands round others: an outline of a single device is an empty one
    const { style, kind } = this.data;
    return style[i] === GROUND || (style[i] === OUTLINED && !(kind === "devices" && this.ranks(i).length === 1));
  }

  ranks(i) { return this.data.ranks.subarray(this.data.first[i], this.data.first[i + 1]); }

  summary(i) {
    return [this.data.labels[i], ...told(this.data, i).map((fact) => fact.join(": "))].filter(Boolean).join("; ");
  }

  // ---- layout: from units to pixels

  size(k, best) {      // the least or greatest width (2) or height (3) of a mark
    let found = this.data.box[k];
    for (let j = k; j < 4 * this.n; j += 4) found = best(found, this.data.box[j]);
    return found;
  }

  widest() {      // pixels that a panel of fixed ratio takes where it may
    const { width, height, kind } = this.data, high = (tall(this.data) * width) / height;
    return kind === "devices" ? Math.min(high, (CELL * width) / this.size(2, Math.min)) : high;
  }

  ideal() {
    if (!this.data.rigid || !this.n) return null;
    const { left, right } = lanes(this.data, (text) => this.view.measure(text));
    return Math.max(this.zoom ? 300 : 225, Math.ceil(left.depth + right.depth + 2 + this.widest()));
  }

  arrange(width) {
    if (!this.n || !width) return;
    const { data } = this;
    this.lanes = lanes(data, (text) => this.view.measure(text));
    const { left, right, top, bottom } = this.lanes;
    this.over = data.kind === "bars" && right.depth > NARROW * width;      // words stand on the bars' ends instead of beside them
    if (this.over) right.depth = 0;
    let w = Math.max(24, width - left.depth - right.depth - 2), h = data.style.length > DENSE ? 360 : 250;
    if (data.kind === "bars") h = Math.min(1200, (BAR * data.height) / (this.size(3, Math.max) || data.height));
    else if (data.rigid) {
      w = Math.max(24, Math.min(w, this.widest()));
      h = Math.max(16, (w * data.height) / data.width);
    }
    this.plot = { x: left.depth + 1, y: top.depth + 1, w: Math.floor(w), h: Math.floor(h) };
    this.width = this.plot.x + this.plot.w + right.depth + 1;
    const turned = data.notes.filter((note) => note.turned).map((note) => this.view.measure(note.text) + 4);
    this.height = Math.max(this.plot.y + this.plot.h + bottom.depth + 1, ...turned);
    this.stage.style.width = `${this.width}px`;
    this.stage.style.height = `${this.height}px`;
    this.words.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.draw();
  }

  draw() {      // what is seen of it, in the room that it has
    if (!this.plot) return;
    const { plot, seen } = this, measure = (text) => this.view.measure(text);
    Object.assign(this.stage.dataset, {
      left: plot.x - (seen.x * plot.w) / seen.w, top: plot.y - (seen.y * plot.h) / seen.h,
      scaleX: plot.w / seen.w, scaleY: plot.h / seen.h, near: Boolean(this.zoom?.near),
    });
    if (this.zoom) this.zoom.reset.disabled = !this.zoom.near;
    this.snap();
    this.placeWords(measure);
    this.placeLabels(measure);
    if (this.dense) this.canvas.forget(); else this.placeShapes();
  }

  get seen() { return this.zoom?.seen ?? { x: 0, y: 0, w: this.data.width, h: this.data.height }; }

  x(units) { return this.plot.x + ((units - this.seen.x) * this.plot.w) / this.seen.w; }
  y(units) { return this.plot.y + ((units - this.seen.y) * this.plot.h) / this.seen.h; }

  snap() {      // corners on whole device pixels, cut to what is seen, and which mark lies under each pixel
    const { data: { box, kind, style }, n, plot, seen } = this, dpr = window.devicePixelRatio || 1;
    const on = (v) => Math.round(v * dpr) / dpr, sx = plot.w / seen.w, sy = plot.h / seen.h, right = plot.x + plot.w, bottom = plot.y + plot.h;
    this.corners = new Float32Array(4 * n);
    this.hidden = new Uint8Array(n);
    this.stride = Math.ceil(this.width);
    this.pick = new Int32Array(this.stride * Math.ceil(this.height));
    for (let i = 0; i < n; i++) {
      const x0 = plot.x + (box[4 * i] - seen.x) * sx, x1 = x0 + box[4 * i + 2] * sx;
      const y0 = plot.y + (box[4 * i + 1] - seen.y) * sy, y1 = y0 + box[4 * i + 3] * sy;
      this.hidden[i] = x1 < plot.x || x0 > right || y1 < plot.y || y0 > bottom;
      if (this.hidden[i]) continue;
      const a = on(Math.max(plot.x, x0)), b = on(Math.max(plot.y, y0)), c = on(Math.min(right, x1)), d = on(Math.min(bottom, y1));
      const least = Math.min(c - a, d - b), gap = kind === "bars" ? 0 : least >= 12 ? 2 : least >= 5 ? 1 : 0;
      this.corners.set([a, b, Math.max(a + 1 / dpr, c - gap), Math.max(b + 1 / dpr, d - gap)], 4 * i);
    }
    for (const frames of [true, false]) for (let i = 0; i < n; i++) if (this.frames(i) === frames && !this.hidden[i]) this.fill(i);
  }

  fill(i) {
    const [x0, y0, x1, y1] = this.corners.subarray(4 * i, 4 * i + 4).map(Math.round);
    for (let y = y0; y < Math.max(y1, y0 + 1); y++) this.pick.fill(i + 1, y * this.stride + x0, y * this.stride + Math.max(x1, x0 + 1));
  }

  laid(note) { return this.over && sideOf(note, this.data) === "right"; }

  spot(note) {
    const side = sideOf(note, this.data), { plot } = this;
    let x = this.x(note.x), y = this.y(note.y);
    if (this.laid(note)) x = plot.x + plot.w - 4;
    else if (side === "left" || side === "right") {
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
    for (const note of this.zoom ? this.zoom.notes() : this.data.notes) {
      const length = measure(note.text), anchor = this.laid(note) ? "end" : note.anchor;
      const shift = { start: 0, middle: length / 2, end: length }[anchor];
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
      this.words.append(make("text", { x, y, "text-anchor": anchor, ...turn }, note.text));
    }
  }

  placeLabels(measure) {      // inside a mark where there is room; of bars and frames also at their edge
    const { data, corners, hidden } = this, said = [];
    for (let i = 0; i < data.labels.length; i++) if (!hidden[i]) said.push(i);
    this.labels = new Map();
    if (said.length > CROWD) return;
    const solid = said.filter((i) => !this.frames(i)).map((i) => [i, corners.subarray(4 * i, 4 * i + 4)]);
    for (const i of said) {
      const spot = this.labelSpots(i, measure).find(({ room }) => !this.taken.some((other) => !apart(room, other))
        && !solid.some(([j, box]) => j !== i && !apart(room, box)));
      if (!spot) continue;
      this.taken.push(spot.room);
      this.labels.set(i, spot);
      if (this.dense) this.words.append(make("text", { x: spot.x, y: spot.y, "text-anchor": "middle" }, spot.text));
    }
  }

  labelSpots(i, measure) {      // where a label may stand, best first
    const { data: { labels, style, kind }, corners } = this, [x0, y0, x1, y1] = corners.subarray(4 * i, 4 * i + 4);
    if (!labels[i] || y1 - y0 < 13) return [];
    const spots = [], frame = this.frames(i), y = (y0 + y1) / 2, short = labels[i].split(" ").at(-1);
    const spot = (text, low, mid, inside) => {
      const length = measure(text);
      return { text, x: low + length / 2, y: mid, inside, room: [low, mid - 7, low + length, mid + 7] };
    };
    const within = (text, pad) => x1 - x0 >= measure(text) + pad && spots.push(spot(text, (x0 + x1 - measure(text)) / 2, y, true));
    if (style[i] !== GROUND) within(labels[i], 6);
    if (frame && kind === "devices" && x1 - x0 >= measure(labels[i]) + 12) spots.push(spot(labels[i], x0 + 6, y0 + 10, true));
    if (kind === "devices" && !frame) within(short, 2);      // a number alone where there is no more room
    if (kind === "bars" && x1 + measure(labels[i]) + 6 < this.width) spots.push(spot(labels[i], x1 + 6, y, false));
    return spots;
  }

  placeShapes() {
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.shapes.forEach((g, i) => {
      const [rect, text] = g.children, [x0, y0, x1, y1] = this.corners.subarray(4 * i, 4 * i + 4);
      const fine = Math.min(x1 - x0, y1 - y0) < FINE, inset = [OUTLINED, HATCHED].includes(this.data.style[i]) && !fine ? 1 : 0;
      const spot = this.labels.get(i);
      const box = { x: x0 + inset, y: y0 + inset, width: Math.max(0, x1 - x0 - 2 * inset), height: Math.max(0, y1 - y0 - 2 * inset) };
      for (const [name, value] of Object.entries(box)) rect.setAttribute(name, value);
      if (this.data.style[i] === HATCHED) {
        rect.style.fill = fine ? this.view.colour(this.data.colour[i]) : this.view.hatch(this.data.colour[i]);
        g.classList.toggle("ckl-fine", fine);
      }
      g.style.display = this.hidden[i] ? "none" : "";
      text.textContent = spot?.text ?? "";
      text.classList.toggle("ckl-outside", Boolean(spot) && !spot.inside);
      if (spot) for (const [name, value] of [["x", spot.x], ["y", spot.y], ["text-anchor", "middle"]]) text.setAttribute(name, value);
    });
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
    this.canvas.light(lit, at, this.view.pickedIn(this));
  }

  // ---- pointing

  hit(ev) {
    const frame = this.stage.getBoundingClientRect(), x = Math.floor(ev.clientX - frame.left), y = Math.floor(ev.clientY - frame.top);
    return x < 0 || x >= this.stride || y < 0 ? -1 : (this.pick[y * this.stride + x] ?? 0) - 1;
  }

  element(ev) {      // the words for the very element under the pointer
    if (!this.zoom) return null;
    const frame = this.stage.getBoundingClientRect();
    return this.zoom.element(ev.clientX - frame.left, ev.clientY - frame.top);
  }

  click(ev) {
    if (this.zoom?.dragged) return;
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

  refocus(i) {
    this.aim(i);
    (this.dense ? this.canvas.node : this.shapes[i]).focus({ preventScroll: true });
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
    const way = !ev.shiftKey && { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1], Home: "Home", End: "End" }[ev.key];
    if (way) {
      this.aim(way === "Home" ? 0 : way === "End" ? this.n - 1 : this.next(...way));
      this.zoom?.reveal(this.focus);
      if (!this.dense) this.shapes[this.focus].focus();
      this.pointHere();
    } else if (ev.key === "Enter" || ev.key === " ") this.view.choose(this, this.focus);
    else if (ev.key === "Escape") this.view.choose(null);
    else if (!this.zoom?.key(ev)) return;
    ev.preventDefault();
    ev.stopPropagation();      // JupyterLab would move to another cell
  }

  next(dx, dy) {      // few marks: along the list; else and upwards or downwards: the nearest that way
    const step = dx + dy;
    if (this.data.kind === "bars" || (!this.tiles && dx)) return Math.max(0, Math.min(this.n - 1, this.focus + step));
    const { box } = this.data, middle = (i) => [2 * this.x(box[4 * i] + box[4 * i + 2] / 2), 2 * this.y(box[4 * i + 1] + box[4 * i + 3] / 2)];
    const [x, y] = middle(this.focus);
    let best = this.focus, least = Infinity;
    for (let i = 0; i < this.n; i++) {
      const [u, v] = middle(i), ahead = (u - x) * dx + (v - y) * dy, aside = Math.abs((u - x) * dy) + Math.abs((v - y) * dx);
      if (ahead <= 1 || (!this.tiles && this.frames(i)) || ahead + 3 * aside >= least) continue;
      [best, least] = [i, ahead + 3 * aside];
    }
    return best;
  }
}
