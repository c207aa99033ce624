/* Every table of the page: rows sorted by any column, filtered by words, the long ones cut until asked for. */

const FEW_ROWS = 12;

/** A new element. Text goes in as text nodes, never as markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, String(value));
  }
  made.append(...children);
  return made;
}

/** The number that a cell begins with; NaN where there is none. */
function numberIn(text) {
  const found = text.replaceAll(",", "").replaceAll("\u2212", "-").match(/[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?/i);
  if (!found) return NaN;
  const value = Number(found[0]);
  return text.trimStart().startsWith("\u00f7") ? 1 / value : value;
}

const byText = new Intl.Collator("en", { numeric: true }).compare;

/** Compare two values, numbers or texts; what is missing (NaN, "", "n/a") comes last either way. */
function compare(a, b, direction) {
  const gone = [a, b].map((value) => value === "" || value === "n/a" || Number.isNaN(value));
  if (gone[0] || gone[1]) return gone[0] - gone[1];
  return direction * (typeof a === "number" ? a - b : byText(a, b));
}

/** Turn a heading into a button that sorts; `sort(direction)` does it. */
function sortable(heading, first, sort) {
  const button = element("button", { type: "button" });
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => {
    const before = heading.getAttribute("aria-sort");
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    const direction = before ? (before === "ascending" ? -1 : 1) : first;
    heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    sort(direction);
  });
}

/** The words of a filter, lower case; a text matches where all of them are in it. */
function words(text) {
  return text.toLowerCase().split(/\s+/).filter(Boolean);
}

/** Make one table of the page sortable, filterable and short. */
function liven(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const long = rows.length > FEW_ROWS;
  let order = rows;
  let wanted = [];
  let all = false;

  const status = element("span", { role: "status" });
  const more = element("button", { type: "button", class: "more" }, `Show all ${rows.length.toLocaleString("en")} rows`);

  function show() {
    const found = order.filter((row) => wanted.every((word) => texts.get(row).includes(word)));
    const shown = new Set(all || wanted.length ? found : found.slice(0, FEW_ROWS));
    for (const row of order) row.hidden = !shown.has(row);
    body.append(...order);
    more.hidden = shown.size === found.length;
    status.textContent = wanted.length ? `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows` : "";
  }

  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const numeric = heading.classList.contains("n");
    const read = (row) => (numeric ? numberIn(row.cells[column].textContent) : row.cells[column].textContent.trim());
    sortable(heading, numeric ? -1 : 1, (direction) => {
      order = [...rows].sort((a, b) => compare(read(a), read(b), direction));
      for (const row of rows) row.classList.remove("first");
      show();
    });
  });
  if (rows.length > 5) {
    const about = table.parentNode.getAttribute("aria-label");
    const filter = element("input", { type: "search", "aria-label": `Filter the rows of ${about}`, placeholder: "filter rows" });
    filter.addEventListener("input", () => {
      wanted = words(filter.value);
      show();
    });
    table.parentNode.before(element("div", { class: "tools" }, filter, status));
  }
  if (long) {
    more.addEventListener("click", () => {
      all = true;
      show();
    });
    table.parentNode.after(more);
    show();
  }
}

for (const table of document.querySelectorAll(".wide > table")) {
  if (table.tHead && table.tBodies.length && table.tBodies[0].rows.length > 1) liven(table);
}

/* What is folded is on paper, too. */
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open]):not(.keys)")];
  for (const folded of unfolded) folded.open = true;
});
addEventListener("afterprint", () => {
  for (const folded of unfolded) folded.open = false;
});
