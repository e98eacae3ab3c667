/* The table's one module: draws the lines it is given of a long table, and asks for those that come into view.
   It decides nothing of what they say. */

const HIGH = 24;      // pixels of a line
const MORE = 12;      // lines asked for above and below those in view
const WAIT = 2000;    // milliseconds after which an answer is no longer waited for
const FOLDS = ["", "\u25b8", "\u25be"];

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

class Table {
  constructor(model, el) {
    Object.assign(this, { model, at: 0, typed: 0, asked: -WAIT, lines: new Map(), uid: `ckt${Math.random().toString(36).slice(2)}` });
    this.head = model.get("head");
    this.tree = this.head.tree;
    this.space = make("div", { class: "ckt-space", role: "presentation" });
    this.titles = make("div", { class: "ckt-head", role: "row", "aria-rowindex": "1" });
    this.grid = make("div", { class: "ckt-grid", role: this.tree ? "treegrid" : "grid", tabindex: "0", "aria-label": this.head.label },
      this.titles, this.space);
    this.status = make("div", { class: "ckt-status", role: "status", "aria-live": "polite" });
    this.root = make("div", { class: "ckt-table" }, this.tools(), this.grid, this.status);
    el.append(this.root);
    this.grid.addEventListener("scroll", () => this.draw());
    this.grid.addEventListener("keydown", (ev) => this.key(ev));
    this.grid.addEventListener("click", (ev) => this.click(ev));
    this.resized = new ResizeObserver(() => requestAnimationFrame(() => this.fit()));
    this.resized.observe(this.root);
    this.heard = {
      "change:page": () => this.arrived(),
      // Whoever is typing is further than what Python has heard of.
      "change:query": () => { if (this.search && !this.search.matches(":focus")) this.search.value = model.get("query"); },
      "change:switched": () => { if (this.box) this.box.checked = model.get("switched"); },
      "change:trouble": () => this.say(),
      "msg:custom": (message, buffers) => this.told(message, buffers),
    };
    for (const [event, hear] of Object.entries(this.heard)) model.on(event, hear);
    this.fit();
    this.arrived();
  }

  close() {
    this.resized.disconnect();
    for (const [event, hear] of Object.entries(this.heard)) this.model.off(event, hear);
  }

  // ---- the line of tools above

  tools() {
    const { head, model } = this, tools = make("div", { class: "ckt-tools" });
    if (head.search) {
      this.search = make("input", { type: "search", class: "ckt-search", placeholder: head.search, "aria-label": `search ${head.label}`, spellcheck: "false" });
      this.search.value = model.get("query");
      this.search.addEventListener("input", () => this.type());
      this.search.addEventListener("keydown", (ev) => {
        ev.stopPropagation();      // JupyterLab has uses of its own for letters
        if (ev.key === "ArrowDown" || ev.key === "Enter") { this.grid.focus(); ev.preventDefault(); }
      });
      tools.append(this.search);
    }
    if (head.switch) {
      this.box = make("input", { type: "checkbox" });
      this.box.checked = model.get("switched");
      this.box.addEventListener("change", () => this.send({ switch: this.box.checked }));
      tools.append(make("label", { class: "ckt-switch" }, this.box, head.switch));
    }
    const button = (text, title, message) => {
      const node = make("button", { type: "button", class: "ckt-button", title }, text);
      node.addEventListener("click", () => this.send(message));
      tools.append(node);
    };
    if (this.tree) {
      button("\u2212", "Fold all", { fold_all: true });
      button("+", "Unfold all", { fold_all: false });
    }
    button("CSV", "Export all lines as CSV", { csv: true });
    return tools;
  }

  send(message) { this.model.send(message); }

  // Numbered, as messages may overtake each other on their way.
  type() { this.send({ search: this.search.value, view: this.uid, nth: ++this.typed }); }

  told(message, buffers) {
    if (!message.csv) return;
    const [data] = buffers, link = make("a", { download: message.csv });
    link.href = URL.createObjectURL(new Blob([data], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // ---- columns: those that there is room for, the first ones first

  fit() {
    const width = this.root.clientWidth;
    if (!width || width === this.fitted) return;
    this.fitted = width;
    const { columns } = this.head;
    let room = width - 20;
    this.shown = columns.findIndex((column) => (room -= column.least) < 0);
    this.shown = this.shown < 0 ? columns.length : Math.max(1, this.shown);
    const template = columns.slice(0, this.shown).map((column) => `minmax(${column.least}px, ${column.wide}fr)`).join(" ");
    this.grid.style.setProperty("--ckt-columns", template);
    this.titles.replaceChildren(...columns.slice(0, this.shown).map((column) => make("div", {
      role: "columnheader", class: column.number ? "ckt-number" : "",
    }, column.label)));
    this.drawn = null;
    this.draw();
  }

  // ---- lines: a page has come, or others come into view

  arrived() {
    this.page = this.model.get("page");
    this.asked = -WAIT;
    this.drawn = null;
    const { total, show, version, first, lines } = this.page;
    // What came before still holds: another view of the same table may be looking elsewhere.
    if (version !== this.version) this.lines.clear();
    this.version = version;
    lines.forEach((line, i) => this.lines.set(first + i, line));
    this.space.style.height = `${total * HIGH}px`;
    // A tree that is folded leaves what stands below it where it is.
    const high = this.tree ? this.head.most : Math.min(this.head.most, Math.max(1, total));
    this.grid.style.height = `${HIGH * (1 + high) + 3}px`;
    this.grid.setAttribute("aria-rowcount", String(total + 1));
    this.at = Math.max(0, Math.min(this.at, total - 1));
    if (show >= 0 && this.page.token !== this.token) { this.at = show; this.into(show); }
    this.token = this.page.token;
    this.say();
    this.draw();
  }

  say() {
    const trouble = this.model.get("trouble");
    this.status.textContent = trouble || this.page.caption;
    this.status.classList.toggle("ckt-trouble", Boolean(trouble));
  }

  window() {
    const first = Math.floor(this.grid.scrollTop / HIGH);
    return [first, Math.min(this.page.total, first + Math.ceil((this.grid.clientHeight - HIGH) / HIGH) + 1)];
  }

  draw() {
    if (!this.page || !this.shown) return;
    const [from, to] = this.window(), seen = [];
    for (let i = from; i < to; i++) if (this.lines.has(i)) seen.push(i);
    if (seen.length < to - from && performance.now() - this.asked > WAIT) {
      this.asked = performance.now();
      const begin = Math.max(0, from - MORE);
      this.send({ want: [begin, to - begin + MORE] });
    }
    const drawn = `${seen[0]} ${seen.length} ${seen.at(-1)}`;
    if (drawn !== this.drawn) {
      this.drawn = drawn;
      this.space.replaceChildren(...seen.map((i) => this.line(this.lines.get(i), i)));
    }
    this.mark();
  }

  line([cells, depth, fold, share, chosen, hint], i) {
    const parts = cells.slice(0, this.shown).map((words, k) => {
      const column = this.head.columns[k];
      const cell = make("div", { role: "gridcell", class: `${column.number ? "ckt-number" : ""} ${column.bar ? "ckt-bar" : ""}` });
      if (column.bar) cell.style.setProperty("--ckt-share", `${100 * share}%`);
      if (k === 0 && this.tree) {
        cell.style.paddingLeft = `${2 + 14 * Math.min(depth, 12)}px`;
        cell.append(make("span", { class: "ckt-fold", "aria-hidden": "true" }, FOLDS[fold]));
      }
      cell.append(words);
      return cell;
    });
    const row = make("div", { role: "row", class: "ckt-line", id: `${this.uid}-${i}`, "data-line": i, "aria-rowindex": i + 2, "aria-selected": String(chosen), title: hint }, ...parts);
    if (this.tree) row.setAttribute("aria-level", depth + 1);
    if (fold) row.setAttribute("aria-expanded", String(fold === 2));
    row.style.top = `${i * HIGH}px`;
    return row;
  }

  mark() {
    for (const row of this.space.children) row.classList.toggle("ckt-at", Number(row.dataset.line) === this.at);
    const id = `${this.uid}-${this.at}`;
    if (this.space.querySelector(`#${id}`)) this.grid.setAttribute("aria-activedescendant", id);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  into(i) {
    const top = i * HIGH, room = this.grid.clientHeight - HIGH;
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    else if (top + HIGH > this.grid.scrollTop + room) this.grid.scrollTop = top + HIGH - room;
  }

  // ---- pointing and keys

  click(ev) {
    const row = ev.target.closest("[data-line]");
    if (!row) return;
    this.at = Number(row.dataset.line);
    this.send(ev.target.closest(".ckt-fold:not(:empty)") ? { fold: this.at } : { press: this.at });
    this.mark();
  }

  go(i) {
    this.at = Math.max(0, Math.min(i, this.page.total - 1));
    this.into(this.at);
    this.draw();
  }

  sideways(right) {
    const line = this.lines.get(this.at);
    if (!line) return;
    const [, depth, fold] = line;
    if (fold === (right ? 1 : 2)) this.send({ fold: this.at });
    else if (right && fold === 2) this.go(this.at + 1);
    else if (!right) {
      for (let i = this.at - 1; this.lines.has(i); i--) if (this.lines.get(i)[1] < depth) { this.go(i); return; }
    }
  }

  key(ev) {
    if (ev.ctrlKey || ev.metaKey || ev.altKey) return;
    const page = Math.max(1, Math.floor(this.grid.clientHeight / HIGH) - 2);
    const to = { ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + page, PageUp: this.at - page, Home: 0, End: this.page.total - 1 }[ev.key];
    if (to !== undefined) this.go(to);
    else if (this.tree && (ev.key === "ArrowRight" || ev.key === "ArrowLeft")) this.sideways(ev.key === "ArrowRight");
    else if (ev.key === "Enter" || ev.key === " ") this.send({ press: this.at });
    else if (this.search && (ev.key === "Escape" || ev.key === "Backspace" || ev.key.length === 1)) {
      this.search.value = ev.key.length === 1 ? this.search.value + ev.key : ev.key === "Escape" ? "" : this.search.value.slice(0, -1);
      if (ev.key !== "Escape") this.search.focus();
      this.type();
    } else return;
    ev.preventDefault();
    ev.stopPropagation();      // JupyterLab would move to another cell
  }
}

export default {
  render({ model, el }) {
    const table = new Table(model, el);
    return () => table.close();
  },
};
