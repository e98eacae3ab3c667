/* Part of the widget's one module: a panel of lines, a table whose first column is a tree. */

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
