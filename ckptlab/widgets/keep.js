/* Part of the widget's one module: a menu that asks Python for the picture as a file, and hands it to the browser. */

class Keep {
  constructor(view) {
    this.view = view;
    const button = (kind) => {
      const node = make("button", { type: "button", "aria-label": `save as ${kind}` }, kind);
      node.addEventListener("click", () => {
        view.model.send({ save: kind.toLowerCase(), dark: this.dark() });
        this.menu.open = false;
      });
      return node;
    };
    const mark = make("summary", { "aria-label": "save the picture", title: "save the picture" }, "\u2913");
    this.menu = make("details", { class: "ckl-keep" }, mark, ...["SVG", "PNG", "PDF"].map(button));
    this.menu.addEventListener("keydown", (ev) => {
      if (ev.key === "Escape") { this.menu.open = false; mark.focus(); }
      ev.stopPropagation();
    });
    this.told = (said, buffers) => { if (said.saved) this.hand(said.saved, buffers[0]); };
  }

  dark() {      // whether light words stand on dark paper
    const [r, g, b] = this.view.theme.text.match(/[\d.]+/g).map(Number);
    return r + g + b > 384;
  }

  hand(suffix, bytes) {
    const type = { svg: "image/svg+xml", png: "image/png", pdf: "application/pdf" }[suffix];
    const link = make("a", { href: URL.createObjectURL(new Blob([bytes], { type })), download: `${this.name()}.${suffix}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  name() { return this.view.scene.title.replace(/[^\w.-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 80) || "scene"; }
}
