(() => {
"use strict";
const root = document.documentElement;
const all = (query, from = document) => [...from.querySelectorAll(query)];
const shown = element => element.checkVisibility ? element.checkVisibility() : true;
const words = element => {
  const said = all(":scope [lang]", element).find(each => root.lang.slice(0, 2) === each.lang.slice(0, 2));
  return (said || element).textContent.trim();
};

// Language.
const speak = tag => {
  root.lang = tag;
  for (const each of all("[data-lang]")) each.setAttribute("aria-pressed", String(each.dataset.lang === tag));
  document.title = words(document.querySelector("h1"));
};
if (!root.dataset.first) root.lang = /^zh/i.test(navigator.language || "") ? "zh-CN" : "en";
speak(root.lang);
for (const each of all("[data-lang]")) each.addEventListener("click", () => speak(each.dataset.lang));

// Light and dark.
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
for (const each of all(".controls,.copy")) each.hidden = false;

// Tables: sort by a click on a heading; what scrolls can be reached by the keyboard.
for (const table of all("table.sortable")) {
  const heads = all("thead th", table);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = all("tbody tr", table).map(row => [row.cells[column], row]);
      keyed.sort(([a], [b]) => {
        const [x, y] = [a.dataset.o, b.dataset.o];
        if ((x === undefined) !== (y === undefined)) return x === undefined ? 1 : -1;
        const order = x === undefined ? words(a).localeCompare(words(b), root.lang, { numeric: true }) : x - y;
        return down ? -order : order;
      });
      table.tBodies[0].append(...keyed.map(([, row]) => row));
    });
  });
}
const reach = () => {
  for (const box of all(".scroll")) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) {
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-labelledby", box.dataset.name);
    } else box.removeAttribute("tabindex");
  }
};
reach();
addEventListener("resize", reach);
for (const each of all("details")) each.addEventListener("toggle", reach);

// Copy.
const select = element => {
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
};
for (const button of all("[data-copy]")) {
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try { await navigator.clipboard.writeText(source.textContent); }
    catch { select(source); document.execCommand("copy"); }
    button.classList.add("done");
    button.dataset.state = "copied";
    const mark = document.createElement("span");
    mark.textContent = " ✓";
    button.append(mark);
    setTimeout(() => mark.remove(), 1500);
  });
}

// Raw data: unpack and save as CSV.
const unpack = async id => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), each => each.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const columns = JSON.parse(await new Response(stream).text());
  const plain = {};
  for (const [name, column] of Object.entries(columns)) {
    if (column.words) { plain[name] = column.at.map(place => column.words[place]); continue; }
    let sum = 0;
    const base = column.after && columns[column.after].is;
    const whole = base ? column.is.map((each, row) => each === null ? null : each + base[row])
      : column.is || column.by.map(each => sum += each);
    const digits = Math.max(0, -Math.floor(Math.log10(column.step) + 1e-9));
    plain[name] = whole.map(each => each === null ? null : Number((each * column.step).toFixed(digits)));
  }
  return plain;
};
const quoted = value => {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const csv = columns => {
  const names = Object.keys(columns);
  const num = names.length ? columns[names[0]].length : 0;
  const lines = [names.map(quoted).join(",")];
  for (let row = 0; row < num; row++) lines.push(names.map(name => quoted(columns[name][row])).join(","));
  return lines.join("\r\n") + "\r\n";
};
for (const button of all("[data-raw]")) {
  button.addEventListener("click", async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(await unpack(button.dataset.raw))], { type: "text/csv" }));
    link.download = button.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

// Plots: a line through all panels under the pointer, with the numbers of the table behind them.
for (const chart of all(".chart")) {
  const table = chart.closest("figure").querySelector(".behind table");
  const rows = all("tbody tr", table).filter(row => row.cells[0].dataset.o !== undefined);
  const places = rows.map(row => Number(row.cells[0].dataset.o));
  if (!places.length) continue;
  const log = chart.dataset.scale === "log";
  const bend = value => log ? Math.log(value) : value;
  const [low, high] = [bend(Number(chart.dataset.low)), bend(Number(chart.dataset.high))];
  const line = document.createElement("div");
  const tip = document.createElement("div");
  line.className = "cross";
  tip.className = "tip";
  line.hidden = tip.hidden = true;
  chart.append(line, tip);
  const show = event => {
    const plot = chart.querySelector(".plot").getBoundingClientRect();
    const box = chart.getBoundingClientRect();
    const at = (event.clientX - plot.left) / plot.width;
    if (at < 0 || at > 1) { line.hidden = tip.hidden = true; return; }
    const x = low + at * (high - low);
    let best = 0;
    places.forEach((place, number) => {
      if (Math.abs(bend(place) - x) < Math.abs(bend(places[best]) - x)) best = number;
    });
    const heads = all("thead th", table);
    const cells = [...rows[best].cells];
    const title = document.createElement("b");
    title.textContent = words(cells[0]);
    tip.replaceChildren(title);
    cells.slice(1).forEach((cell, number) => {
      if (!cell.textContent) return;
      const part = document.createElement("div");
      part.textContent = `${words(heads[number + 1])}: ${words(cell)}`;
      tip.append(part);
    });
    const left = plot.left - box.left + (bend(places[best]) - low) / (high - low) * plot.width;
    line.hidden = tip.hidden = false;
    line.style.left = `${left}px`;
    const right = left > box.width / 2;
    tip.style.left = right ? "" : `${left + 10}px`;
    tip.style.right = right ? `${box.width - left + 10}px` : "";
    tip.style.top = `${Math.max(0, Math.min(event.clientY - box.top - 20, box.height - tip.offsetHeight))}px`;
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", () => { line.hidden = tip.hidden = true; });
}
})();
