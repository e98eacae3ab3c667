/* Last part of the widget's one module: draws any packed scene (see pack.py), under one legend, all lit together.
   It decides nothing of what is shown, fetches nothing, and tells Python only what was picked. */

// Each widget runs a copy of this module; views of one link find each other here.
const links = (globalThis[Symbol.for("ckptlab.links")] ??= new Map());

// Notebook 7 takes arrow keys for itself wherever they are pressed; on our tabs they go from tab to tab.
globalThis[Symbol.for("ckptlab.tabs")] ??= window.addEventListener("keydown", (ev) => {
  const tab = ev.target.closest?.(".ckl-sheets .lm-TabBar-tab"), step = { ArrowLeft: -1, ArrowRight: 1 }[ev.key];
  if (!tab || !step) return;
  const tabs = [...tab.parentElement.children];
  tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length].focus();
  ev.preventDefault();
  ev.stopImmediatePropagation();
}, true) ?? true;

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
    this.heard = {
      "change:header": rebuild, "change:columns": rebuild, "change:picked": () => this.relight(),
      "change:rank": () => this.keepTogether(), "change:link": () => this.join(),
    };
    this.keeping = model.send ? new Keep(this) : null;      // a page by itself has no Python to ask
    if (this.keeping) this.heard["msg:custom"] = this.keeping.told;
    for (const [event, told] of Object.entries(this.heard)) model.on(event, told);
    this.build();
    this.join();
  }

  close() {
    this.leave();
    this.resized.disconnect();
    for (const [event, told] of Object.entries(this.heard)) this.model.off(event, told);
  }

  build() {
    this.scene = unpack(this.model.get("header"), this.model.get("columns"));
    if (this.at) { this.at = null; this.relight(); }
    this.patterns = make("defs");
    const held = (this.panels ?? []).find((panel) => panel.stage.contains(document.activeElement));
    const before = new Map((this.panels ?? []).map((panel) => [panel.data.name, panel]));
    this.panels = this.scene.panels.map((panel) => new Panel(panel, this, before.get(panel.name)));
    this.known = new Set(this.scene.panels.flatMap((panel) => [...panel.ranks]));
    const some = this.panels.filter((panel) => panel.n);
    this.status.dataset.hint = some.some((panel) => panel.data.kind === "devices") ? this.model.get("hint") ?? "" : "";
    const parts = [
      this.scene.title && make("div", { class: "ckl-title", role: "heading", "aria-level": "3" }, this.scene.title),
      this.panels.length ? make("div", { class: "ckl-panels" }, ...this.panels.map((panel) => panel.figure))
        : make("div", { class: "ckl-empty" }, "nothing to show"),
      this.scene.legend.length && make("div", { class: "ckl-legend", role: "list", "aria-label": "legend" },
        ...this.scene.legend.map((key) => this.key(key))),
      some.length && this.status,
      some.length && this.keeping?.menu,
    ];
    this.root.replaceChildren(make("svg", { class: "ckl-patterns", "aria-hidden": "true" }, this.patterns), this.probe,
      ...parts.filter(Boolean), this.tip);
    this.arranged = null;
    this.point(null);
    this.readTheme();
    this.arrange();
    if (held) this.panels.find((panel) => panel.data.name === held.data.name && panel.n > held.focus)?.refocus(held.focus);
  }

  key({ text, colour, style }) {
    const name = this.colour(colour), fill = style === HATCHED ? this.hatch(colour) : style === OUTLINED ? "none" : name;
    const line = style === GROUND ? "fill-opacity:.35" : `stroke:${name};stroke-width:${style === OUTLINED ? 2 : 1}`;
    const swatch = make("rect", { x: 1, y: 1, width: 14, height: 10, rx: 2, style: `fill:${fill};${line}` });
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
    for (const panel of this.panels) panel.canvas?.forget();
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

  // ---- views of one link

  join() {
    this.leave();
    const link = this.model.get("link");
    this.peers = link ? links.get(link) ?? new Set() : new Set();
    if (link) links.set(link, this.peers);
    const [other] = this.peers;
    this.peers.add(this);
    if (other && this.model.get("rank") < 0) this.keep(other.model.get("rank"));
    this.keepTogether();
  }

  leave() {
    const { peers } = this;
    if (!peers?.delete(this)) return;
    for (const [link, views] of links) if (views === peers && !peers.size) links.delete(link);
    for (const view of peers) view.refresh();
  }

  keepTogether() {
    for (const view of this.peers ?? []) view.keep(this.model.get("rank"));
    this.relight();
  }

  keep(rank) {
    if (this.model.get("rank") === rank) return;
    this.model.set("rank", rank);
    this.model.save_changes();
  }

  relight() { for (const view of this.peers ?? [this]) view.refresh(); }

  // ---- what is lit

  pickedIn(panel) {
    const picked = this.model.get("picked") ?? {};
    if (picked.panel !== panel.data.name || !(picked.mark < panel.n)) return null;
    const ranks = panel.ranks(picked.mark), [only] = ranks;      // Python may have let go of its rank since
    return ranks.length === 1 && only !== this.model.get("rank") ? null : picked.mark;
  }

  chosen() {      // ranks that stay lit
    const rank = this.model.get("rank");
    return rank >= 0 ? [rank]
      : this.panels.flatMap((panel) => { const i = this.pickedIn(panel); return i === null ? [] : [...panel.ranks(i)]; });
  }

  pointed() { return this.at ? this.at.panel.ranks(this.at.i) : []; }

  everywhere(ranksOf) {      // in all views of the link, as far as this one knows the ranks
    return [...(this.peers ?? [this])].flatMap((view) => [...ranksOf(view)]).filter((rank) => this.known.has(rank));
  }

  point(panel, i = -1, x = 0, y = 0, element = null) {
    const at = panel && i >= 0 ? { panel, i } : null;
    const same = at?.panel === this.at?.panel && at?.i === this.at?.i;
    this.at = at;
    if (!same) this.relight();
    if (!at) { this.tip.hidePopover?.(); return; }
    if (!same) this.fillTip();
    this.here.replaceChildren(...(element ? [make("th", {}, "at the pointer"), make("td", {}, element)] : []));
    this.tip.showPopover?.();
    const { width, height } = this.tip.getBoundingClientRect();
    const place = (v, size, most) => Math.max(4, v + 14 + size > most - 4 ? v - 14 - size : v + 14);
    this.tip.style.left = `${place(x, width, window.innerWidth)}px`;
    this.tip.style.top = `${place(y, height, window.innerHeight)}px`;
  }

  fillTip() {
    const { panel: { data }, i } = this.at;
    const rows = told(data, i).map(([label, words]) => make("tr", {}, make("th", {}, label), make("td", {}, words)));
    this.here = make("tr");
    this.tip.replaceChildren(data.labels[i] ? make("strong", {}, data.labels[i]) : "", make("table", {}, ...rows, this.here));
  }

  choose(panel, i) {
    const ranks = panel ? panel.ranks(i) : [], rank = ranks.length === 1 ? ranks[0] : -1;
    const again = !panel || this.pickedIn(panel) === i || (!panel.tiles && rank >= 0 && rank === this.model.get("rank"));
    this.model.set("picked", again ? {} : { panel: panel.data.name, mark: i });
    if (this.known.size) {      // a view without ranks has none to let go of
      for (const view of this.peers) if (view.model !== this.model) view.drop();
      this.model.set("rank", again ? -1 : rank);
    }
    this.model.save_changes();
    this.relight();
  }

  drop() {      // one mark is pressed in all views of a link
    if (!Object.keys(this.model.get("picked") ?? {}).length) return;
    this.model.set("picked", {});
    this.model.save_changes();
  }

  refresh() { this.frame ??= requestAnimationFrame(() => { this.frame = null; this.light(); }); }

  light() {
    const { at } = this, kept = new Set(this.everywhere((view) => view.chosen()));
    const bright = new Set([...kept, ...this.everywhere((view) => view.pointed())]), all = !at && !bright.size;
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
