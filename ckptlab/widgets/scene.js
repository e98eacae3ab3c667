/* First part of the widget's one module (view.py joins them): a packed scene, its facts in words, its inks. */

const FILLED = 0, OUTLINED = 1, HATCHED = 2, GROUND = 3;
const DIM = 0.16;     // of a mark's fill, while others are pointed at
const DENSE = 256;    // tiles beyond which they are painted on a canvas
const CROWD = 1024;   // other marks beyond which they are; of more marks in sight none bears words
const ROOMY = 64;     // devices up to which all are large enough to point at
const FINE = 8;       // pixels below which stripes are too fine to be seen
const CELL = 92;      // most pixels a device is wide
const UNIT = 60;      // most pixels a unit of a tensor is long
const BAR = 22;       // pixels the thickest bar takes
const NARROW = 0.5;   // of a panel's width that words beside bars may take
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
    ...Object.fromEntries(["box", "colour", "style", "first", "ranks", "labels"].map((k) => [k, column(panel[k])])),
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
  if (mark * fact.wide >= fact.values.length && fact.wide) return "";
  const value = fact.values.subarray(mark * fact.wide, (mark + 1) * fact.wide);
  if (fact.kind === "place") return fact.words.map((axis, k) => [axis, value[k]]).filter(([, i]) => i >= 0).map((p) => p.join(" ")).join(", ");
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

function dense(data) { return data.style.length > (data.kind === "tiles" ? DENSE : CROWD); }

function tall({ kind, height, style }) {      // most pixels a panel of fixed ratio is high, as stage.tall
  if (kind === "devices") return Math.min(420, Math.max(250, 40 * height));
  return kind === "tiles" ? Math.min(style.length > DENSE ? 360 : 280, UNIT * height) : 250;
}
