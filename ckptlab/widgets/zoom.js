/* Part of the widget's one module: the part of a panel that is looked at; wheel, drag, buttons and keys change it. */

const NEAREST = 4096;      // times; the places of marks are no more exact than that

class Zoom {
  constructor(panel, was) {
    this.panel = panel;
    this.whole = { x: 0, y: 0, w: panel.data.width, h: panel.data.height };
    this.seen = was ?? this.whole;
    const button = (name, sign, press) => {
      const node = make("button", { type: "button", "aria-label": name, title: name }, sign);
      node.addEventListener("click", press);
      return node;
    };
    this.reset = button("whole picture (double click, or 0)", "\u2922", () => this.show(this.whole));
    this.bar = make("div", { class: "ckl-zoom", role: "group", "aria-label": `zoom of ${panel.data.title}` },
      button("zoom in (Ctrl + wheel, or +)", "+", () => this.by(2)), button("zoom out (-)", "\u2212", () => this.by(1 / 2)), this.reset);
    const { stage } = panel;
    stage.addEventListener("wheel", (ev) => this.wheel(ev), { passive: false });
    stage.addEventListener("dblclick", () => this.show(this.whole));
    stage.addEventListener("pointerdown", (ev) => this.grab(ev));
  }

  get near() { return this.seen.w < this.whole.w; }

  show({ x, y, w, h }) {
    const { whole } = this, within = (low, size, most) => Math.min(Math.max(0, low), most - size);
    this.seen = w >= whole.w ? whole : { x: within(x, w, whole.w), y: within(y, h, whole.h), w, h };
    this.panel.draw();
    this.panel.view.refresh();
  }

  by(factor, at) {      // `at`: shares of the plot that stay where they are
    const { seen, whole } = this, w = Math.min(whole.w, Math.max(whole.w / NEAREST, seen.w / factor)), h = (w * whole.h) / whole.w;
    const [u, v] = at ?? [0.5, 0.5];
    this.show({ x: seen.x + u * (seen.w - w), y: seen.y + v * (seen.h - h), w, h });
  }

  pan(u, v) { this.show({ ...this.seen, x: this.seen.x + u * this.seen.w, y: this.seen.y + v * this.seen.h }); }

  wheel(ev) {      // a page that is only scrolled past stays as it is
    const { stage, plot } = this.panel;
    if (!plot || !(ev.ctrlKey || ev.metaKey || stage.contains(document.activeElement))) return;
    ev.preventDefault();
    const frame = stage.getBoundingClientRect();
    const share = (v, low, size) => Math.min(1, Math.max(0, (v - low) / size));
    this.by(Math.exp(-ev.deltaY * (ev.deltaMode ? 0.05 : 0.002)), [share(ev.clientX - frame.left, plot.x, plot.w), share(ev.clientY - frame.top, plot.y, plot.h)]);
  }

  grab(ev) {
    if (!this.near || ev.button) return;
    const { stage, plot, view } = this.panel, from = this.seen;
    const move = (to) => {
      const dx = to.clientX - ev.clientX, dy = to.clientY - ev.clientY;
      if (!this.dragged && Math.hypot(dx, dy) < 4) return;
      this.dragged = true;
      view.point(null);
      this.show({ ...from, x: from.x - (dx * from.w) / plot.w, y: from.y - (dy * from.h) / plot.h });
    };
    const drop = () => {
      window.removeEventListener("pointermove", move);
      setTimeout(() => { this.dragged = false; });      // after the click that ends it
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", drop, { once: true });
    window.addEventListener("pointercancel", drop, { once: true });
    stage.focus?.();
  }

  key(ev) {      // whether the key was one of these
    const way = ev.shiftKey && { ArrowRight: [0.25, 0], ArrowLeft: [-0.25, 0], ArrowDown: [0, 0.25], ArrowUp: [0, -0.25] }[ev.key];
    if (way) this.pan(...way);
    else if (ev.key === "+" || ev.key === "=") this.by(2, this.focus());
    else if (ev.key === "-") this.by(1 / 2, this.focus());
    else if (ev.key === "0") this.show(this.whole);
    else return false;
    return true;
  }

  focus() {      // where the mark stands that the keys are at
    const { corners, focus, plot } = this.panel, [x0, y0, x1, y1] = corners.subarray(4 * focus, 4 * focus + 4);
    return [((x0 + x1) / 2 - plot.x) / plot.w, ((y0 + y1) / 2 - plot.y) / plot.h];
  }

  reveal(i) {      // bring a mark into sight
    const [x, y, w, h] = this.panel.data.box.subarray(4 * i, 4 * i + 4), { seen } = this;
    if (x + w > seen.x && x < seen.x + seen.w && y + h > seen.y && y < seen.y + seen.h) return;
    this.show({ ...seen, x: x + w / 2 - seen.w / 2, y: y + h / 2 - seen.h / 2 });
  }

  notes() {      // those in sight; of a tensor round numbers of elements in place of the edges; names of axes stay in the middle
    const { plane, notes } = this.panel.data, { seen } = this;
    if (!this.near) return notes;
    const middle = (note) => (note.x < 0 ? { ...note, y: seen.y + seen.h / 2 } : { ...note, x: seen.x + seen.w / 2 });
    const inSight = ({ x, y }) => (y < 0 ? x >= seen.x && x <= seen.x + seen.w : y >= seen.y && y <= seen.y + seen.h);
    const names = notes.filter((note) => /[\u2190\u2192]/.test(note.text)).map(middle);
    if (!plane) return [...names, ...notes.filter((note) => !/[\u2190\u2192]/.test(note.text) && inSight(note))];
    const along = (dim, extent, low, size, place) => {
      if (dim < 0) return [];
      const count = plane.shape[dim], unit = extent / Math.max(count, 1), from = low / unit, to = Math.min(count, (low + size) / unit);
      const power = 10 ** Math.floor(Math.log10(Math.max(1, (to - from) / 5))), step = [1, 2, 5, 10].find((m) => m * power >= (to - from) / 5) * power;
      const found = [];
      for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(place(at * unit, String(at)));
      return found;
    };
    return [
      ...along(plane.x, plane.width, seen.x, seen.w, (x, text) => ({ x, y: -0.1, text, anchor: "middle", turned: false })),
      ...along(plane.y, plane.height, seen.y, seen.h, (y, text) => ({ x: -0.1, y, text, anchor: "end", turned: false })),
      ...names,
    ];
  }

  element(x, y) {      // the element of the tensor at a point of the stage, in pixels; null beside it
    const { data: { plane }, plot } = this.panel, { seen } = this;
    if (!plane || !plane.shape.length) return null;
    const units = [seen.x + ((x - plot.x) * seen.w) / plot.w, seen.y + ((y - plot.y) * seen.h) / plot.h];
    const at = [...plane.at];
    for (const [dim, unit, extent] of [[plane.x, units[0], plane.width], [plane.y, units[1], plane.height]]) {
      if (dim < 0) continue;
      at[dim] = Math.floor((unit * plane.shape[dim]) / extent);
      if (at[dim] < 0 || at[dim] >= plane.shape[dim]) return null;
    }
    return `[${at.join(", ")}]`;
  }
}
