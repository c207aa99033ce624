/* The map with all around it: what a dot is, what the colours mean, what was caught, and every sample as a row. */

const ROWS_A_PAGE = 50;
const TOLD_VALUES = 12; /* values of a column that the choice of colours names; the others share one */
const paper = { now: false };

const isDark = () => !paper.now && matchMedia("(prefers-color-scheme: dark)").matches;

/** Numbers of a little-endian array, given as base64. */
function numbers(text, kind) {
  return new kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

const count = (n) => n.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** A value of a field as text. */
function told(field, value) {
  if (Number.isNaN(value)) return "n/a";
  if (field.kind !== "weight") return field.kind === "density" ? value.toFixed(3) : value.toExponential(1);
  return value === 0 ? "never drawn" : `\u00d7${value.toPrecision(3)}`;
}

/** Where a value stands between a field's ends, 0 to 1; NaN where there is none. */
function standing(field, value) {
  const at = field.kind === "weight" ? Math.log2(value) : value;
  return Number.isNaN(at) ? NaN : Math.min(1, Math.max(0, (at - field.low) / (field.high - field.low)));
}

/** Everything about one map: `root` is its section, `given` the document that came with it. */
function explore(root, given) {
  const n = given.ids.length;
  const id = (i) => given.prefix + given.ids[i];
  const x = Float64Array.from(numbers(given.x, Uint16Array), (value) => value / 65535);
  const y = Float64Array.from(numbers(given.y, Uint16Array), (value) => value / 65535);
  const fields = given.fields.map((field) => ({ ...field, values: numbers(field.values, Float32Array) }));
  const columns = given.columns.map((column) => ({ ...column, codes: numbers(column.codes, Uint16Array) }));
  const value = (column, i) => column.values[column.codes[i]];
  const tiles = given.pictures ? numbers(given.pictures.places, Int16Array) : null;
  const sheets = given.pictures ? given.pictures.sheets.map((source) => Object.assign(new Image(), { src: source })) : [];
  const state = { chosen: [], wanted: [], sort: null, page: 0, order: [] };

  /* A sample's picture, as a canvas; null where the page has none of it. */
  function picture(i) {
    if (!tiles || tiles[i] < 0) return null;
    const { side, across } = given.pictures;
    const sheet = sheets[Math.floor(tiles[i] / (across * across))];
    const at = tiles[i] % (across * across);
    const made = element("canvas", { width: side, height: side, role: "img", "aria-label": `picture of ${id(i)}` });
    const place = [(at % across) * side, Math.floor(at / across) * side, side, side];
    const put = () => made.getContext("2d").drawImage(sheet, ...place, 0, 0, side, side);
    if (sheet.complete) put();
    else sheet.addEventListener("load", put, { once: true });
    return made;
  }

  /* Everything there is to say of a sample, as [what, text]. */
  function facts(i) {
    const about = columns.filter((column) => !column.quiet || value(column, i) !== null).map((column) => [column.name, value(column, i) ?? "(none)"]);
    return [...about, ...fields.map((field) => [field.name, told(field, field.values[i])])];
  }

  const tip = element("div", { class: "tip", hidden: true });
  const said = element("p", { class: "unseen", role: "status" });
  const help = element("p", { id: `${root.id}-keys` },
    "Drag to catch samples in a lasso, or to move the map where \u201cMove\u201d is chosen (Shift: the other of the two). " +
    "Enlarge with the buttons, two fingers, or the wheel (with Ctrl, or after a click on the map). Keys: arrows go from dot to dot, " +
    "Shift + arrows move, + and \u2212 enlarge, 0 shows all, space catches the 50 nearest, Enter takes the dot, Escape lets go. " +
    "The table below holds the same samples.");
  const canvas = element("canvas", { tabindex: 0, role: "application", "aria-roledescription": "map", "aria-describedby": help.id,
    "aria-label": `Map of ${count(n)} samples` });
  const stage = element("div", { class: "stage" }, canvas, tip);

  const map = dotMap(canvas, x, y, {
    point(i, left, top) {
      tip.hidden = i < 0;
      said.textContent = "";
      if (i < 0) return;
      const list = element("div", {}, element("b", {}, id(i)));
      for (const [what, text] of facts(i)) list.append(element("br"), `${what}: ${text}`);
      const shown = picture(i);
      tip.replaceChildren(...(shown ? [shown] : []), list);
      if (document.activeElement === canvas) said.textContent = [id(i), ...facts(i).map((fact) => fact.join(": "))].join(", ");
      const { clientWidth: w, clientHeight: h } = stage;
      tip.style.left = `${Math.max(0, Math.min(left + 14, w - tip.offsetWidth - 4))}px`;
      tip.style.top = `${top + 14 + tip.offsetHeight < h ? top + 14 : Math.max(0, top - 14 - tip.offsetHeight)}px`;
    },
    choose: (i) => choose([i]),
    select: (caught) => choose(caught),
  });

  /* ---- colours ---- */
  const by = element("select", {});
  fields.forEach((field, k) => by.append(element("option", { value: `f${k}` }, field.label)));
  columns.forEach((column, k) => column.colours && by.append(element("option", { value: `c${k}` }, column.name)));
  const key = element("div", {});

  function paintBy() {
    const style = getComputedStyle(root);
    const named = (name) => (paper.now ? given.light[name] : null) ?? style.getPropertyValue(name).trim();
    const gone = named("--faint");
    const k = Number(by.value.slice(1));
    if (by.value.startsWith("f")) {
      const field = fields[k];
      const stops = given.scales[field.kind][isDark() ? "dark" : "light"];
      const colours = [...Array(DOT_BINS).keys()].map((bin) => between(stops, bin / (DOT_BINS - 1)));
      const bins = Uint8Array.from(field.values, (v) => (Number.isNaN(standing(field, v)) ? DOT_BINS : Math.round(standing(field, v) * (DOT_BINS - 1))));
      const telling = field.kind === "density" ? (i) => bins[i] : (i) => Math.abs(bins[i] - DOT_BINS / 2);
      const order = [...x.keys()].sort((a, b) => telling(a) - telling(b));
      map.colour(bins, [...colours, gone], order, named("--ink"));
      const bar = element("canvas", { width: DOT_BINS, height: 1, role: "img", "aria-label": `colours from ${field.least} to ${field.most}` });
      const pen = bar.getContext("2d");
      colours.forEach((colour, bin) => {
        pen.fillStyle = colour;
        pen.fillRect(bin, 0, 1, 1);
      });
      key.replaceChildren(element("div", { class: "scale" }, element("span", {}, field.least), bar, element("span", {}, field.most)));
      return;
    }
    const column = columns[k];
    const sizes = new Map();
    for (const code of column.codes) sizes.set(code, (sizes.get(code) ?? 0) + 1);
    const codes = [...sizes.keys()].sort((a, b) => sizes.get(b) - sizes.get(a));
    const hues = [...Array(given.hues).keys()].map((hue) => named(`--s${hue + 1}`));
    const coloured = codes.filter((code) => !column.quiet || column.values[code] !== null);
    const bin = new Map(codes.map((code) => [code, coloured.includes(code) ? Math.min(coloured.indexOf(code), hues.length) : hues.length]));
    const faint = (i) => bin.get(column.codes[i]) === hues.length;
    const order = [...x.keys()].sort((a, b) => faint(b) - faint(a)); /* what has a colour lies on top */
    map.colour(Uint8Array.from(column.codes, (code) => bin.get(code)), [...hues, gone], order, named("--ink"));
    const chips = codes.slice(0, TOLD_VALUES).map((code) => {
      const swatch = element("canvas", { width: 1, height: 1, "aria-hidden": "true" });
      const pen = swatch.getContext("2d");
      pen.fillStyle = [...hues, gone][bin.get(code)];
      pen.fillRect(0, 0, 1, 1);
      const chip = element("button", { type: "button", "aria-pressed": "false" }, swatch, `${column.values[code] ?? "(none)"} (${count(sizes.get(code))})`);
      chip.addEventListener("click", () => {
        const on = chip.getAttribute("aria-pressed") === "true";
        choose(on ? [] : [...x.keys()].filter((i) => column.codes[i] === code));
        chip.setAttribute("aria-pressed", String(!on));
      });
      return chip;
    });
    const others = codes.length - chips.length;
    if (others > 0) chips.push(element("span", {}, `and ${count(others)} more`));
    key.replaceChildren(element("div", { class: "values", role: "group", "aria-label": `Choose the samples of a ${column.name}` }, ...chips));
  }

  by.addEventListener("change", paintBy);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintBy);
  for (const [event, now] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      paper.now = now;
      paintBy();
      map.paint();
    });
  }

  /* ---- what was caught ---- */
  const summary = element("div", { class: "caught", "aria-live": "polite" });
  const clear = element("button", { type: "button", disabled: true, onclick: () => choose([]) }, "Clear selection");
  const save = element("button", { type: "button", onclick: keep }, "Save the ids");

  function choose(caught) {
    state.chosen = caught;
    state.page = 0;
    map.choose(caught);
    clear.disabled = !caught.length;
    for (const chip of key.querySelectorAll("[aria-pressed]")) chip.setAttribute("aria-pressed", "false");
    summarise();
    list();
  }

  function mean(values, of) {
    const known = of.map((i) => values[i]).filter((v) => !Number.isNaN(v));
    return known.length ? known.reduce((sum, v) => sum + v, 0) / known.length : NaN;
  }

  function summarise() {
    const all = [...x.keys()];
    const { chosen } = state;
    if (!chosen.length) {
      summary.replaceChildren(element("p", { class: "caption" }, "Nothing is selected. Draw around dots, or choose a group, to see who they are and what each weighting does to them."));
      return;
    }
    const named = (field) => (field.kind === "weight" ? `weight, ${field.name}` : field.name);
    const rows = fields.map((field) => [named(field), told(field, mean(field.values, chosen)), told(field, mean(field.values, all))]);
    const parts = [element("h4", {}, `${count(chosen.length)} of ${count(n)} samples selected (${percent(chosen.length / n)})`),
      grid(["mean", "selected", "all"], rows, 1, "Selected samples against all")];
    for (const column of columns) {
      const own = new Map();
      const whole = new Map();
      for (const i of all) whole.set(column.codes[i], (whole.get(column.codes[i]) ?? 0) + 1);
      for (const i of chosen) own.set(column.codes[i], (own.get(column.codes[i]) ?? 0) + 1);
      const codes = [...own.keys()].sort((a, b) => own.get(b) - own.get(a));
      const lines = codes.slice(0, 8).map((code) => [column.values[code] ?? "(none)", count(own.get(code)), percent(own.get(code) / chosen.length), percent(whole.get(code) / n)]);
      parts.push(grid([column.name, "selected", "share", "of all"], lines, 1, `Selected samples by ${column.name}`));
      if (codes.length > 8) parts.push(element("p", { class: "caption" }, `and ${count(codes.length - 8)} more values`));
    }
    summary.replaceChildren(...parts);
  }

  /* A small table: the columns from `first` on hold numbers. */
  function grid(heads, lines, first, about) {
    const put = (kind, text, at) => element(kind, { class: at >= first ? "n" : null, scope: kind === "th" ? "col" : null }, text);
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((text, at) => put("th", text, at)))),
      element("tbody", {}, ...lines.map((line) => element("tr", {}, ...line.map((text, at) => put("td", text, at))))));
    return element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": about }, table);
  }

  function keep() {
    const rows = state.order.map(id).join("\n");
    const link = element("a", { href: URL.createObjectURL(new Blob([`${rows}\n`], { type: "text/plain" })), download: "sample_ids.txt" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  /* ---- every sample as a row: the map's other form ---- */
  const kinds = [
    ...(tiles ? [{ name: "picture" }] : []),
    { name: "sample", read: id },
    ...columns.map((column) => ({ name: column.name, quiet: column.quiet, read: (i) => value(column, i) ?? "" })),
    ...fields.map((field) => ({ name: field.name, read: (i) => field.values[i], text: (i) => told(field, field.values[i]), number: true })),
  ];
  const body = element("tbody", {});
  const heads = kinds.map((kind) => element("th", { scope: "col", class: kind.number ? "n" : null }, kind.name));
  const region = element("div", { class: "wide tall", tabindex: 0, role: "region", "aria-label": "Samples of the map" },
    element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body));
  heads.forEach((head, k) => kinds[k].read && sortable(head, kinds[k].number ? -1 : 1, (direction) => {
    state.sort = { read: kinds[k].read, direction };
    state.page = 0;
    list();
  }));
  const filter = element("input", { type: "search", "aria-label": "Filter the samples", placeholder: "filter samples" });
  filter.addEventListener("input", () => {
    state.wanted = words(filter.value);
    state.page = 0;
    list();
  });
  const status = element("span", { role: "status" });
  const turn = (by) => element("button", { type: "button", onclick: () => {
    state.page += by;
    list();
  } }, by < 0 ? "Previous" : "Next");
  const [previous, next] = [turn(-1), turn(1)];
  const never = (i) => fields.filter((field) => field.kind === "weight" && field.values[i] === 0).map((field) => told(field, 0));
  const searched = [...x.keys()].map((i) => [id(i), ...columns.map((column) => value(column, i) ?? ""), ...never(i)].join(" ").toLowerCase());

  function list() {
    const from = state.chosen.length ? state.chosen : [...x.keys()];
    const found = from.filter((i) => state.wanted.every((word) => searched[i].includes(word)));
    if (state.sort) {
      const { read, direction } = state.sort;
      found.sort((a, b) => compare(read(a), read(b), direction));
    }
    state.order = found;
    const start = state.page * ROWS_A_PAGE;
    body.replaceChildren(...found.slice(start, start + ROWS_A_PAGE).map((i) => element("tr", {}, ...kinds.map((kind) => {
      if (!kind.read) return element("td", {}, picture(i) ?? "");
      if (kind.read === id) return element("td", {}, element("button", { type: "button", class: "id", title: "show on the map", onclick: () => map.point(i) }, id(i)));
      return element("td", { class: kind.number ? "n" : null }, kind.text ? kind.text(i) : kind.read(i) || (kind.quiet ? "" : "(none)"));
    }))));
    const end = Math.min(start + ROWS_A_PAGE, found.length);
    status.textContent = found.length ? `${count(start + 1)} to ${count(end)} of ${count(found.length)}${state.chosen.length ? " selected" : ""}` : "no sample matches";
    previous.disabled = state.page === 0;
    next.disabled = end >= found.length;
  }

  /* ---- put together ---- */
  const mode = (name, moves) => element("button", { type: "button", "aria-pressed": "false", onclick: () => take(moves) }, name);
  const [catching, moving] = [mode("Lasso", false), mode("Move", true)];
  function take(moves) {
    map.moves(moves);
    catching.setAttribute("aria-pressed", String(!moves));
    moving.setAttribute("aria-pressed", String(moves));
  }
  const glass = (name, text, factor) => element("button", { type: "button", "aria-label": name, onclick: () => map.zoom(factor) }, text);
  root.querySelector(".notice").remove(); /* it says that no script runs */
  root.append(
    element("div", { class: "tools", role: "group", "aria-label": "The map" }, element("label", {}, "Colour by", by), catching, moving,
      glass("Enlarge", "+", 1.6), glass("Shrink", "\u2212", 1 / 1.6), glass("Show all", "Show all", 0), clear),
    element("div", { class: "around" }, element("div", {}, stage, key, element("details", { class: "keys" }, element("summary", {}, "Mouse, touch and keys"), help), said), summary),
    element("div", { class: "tools", role: "group", "aria-label": "The samples of the map" }, filter, previous, next, status, save),
    region,
  );
  take(matchMedia("(pointer: coarse)").matches);
  paintBy();
  summarise();
  list();
}

for (const root of document.querySelectorAll(".explorer")) {
  explore(root, JSON.parse(document.getElementById(root.dataset.source).textContent));
}
