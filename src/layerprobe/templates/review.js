"use strict";
(() => {
  // data: {id, sample: {n, seed}, classes, rows: [{index, given, suggested, score, image?, small?, text?, values?, twin?}],
  //        twin: {index, given, similarity, image?, small?, text?, values?} is a duplicate with another label,
  //        queue: [{row, repeat, sample}], none}. A decision belongs to one entry of the queue: a class, CANNOT_SAY or
  //        OUTSIDE, none of the classes, which files call `none`.
  const data = JSON.parse(document.getElementById("data").textContent);
  const { classes, rows, queue } = data;
  const sampleSize = queue.filter((entry) => entry.sample).length;
  const CANNOT_SAY = -1;
  const OUTSIDE = -2;
  const GRID = 24;
  const FORMULA = /^[=+\-@\t\r]/;
  const $ = (id) => document.getElementById(id);
  const decisions = new Map();
  const undone = []; // earlier states: [entry, decision or undefined]
  let shown = queue.map((_, i) => i); // entries that match the filters
  let place = 0; // in `shown`
  let grid = false;
  let revealed = false;
  let durations = [];
  let since = Date.now();
  let highlighted = -1;
  let matches = [];

  // What is kept in the browser, so that a reload loses nothing.
  const key = "layerprobe-review-" + data.id;
  function save() {
    try {
      localStorage.setItem(key, JSON.stringify({
        decisions: [...decisions], reviewer: $("reviewer").value, hide: $("hide").checked,
        entry: shown[place], durations: durations.slice(-50),
      }));
    } catch {
      say("This browser cannot store the decisions: export them before you close the page.");
    }
  }
  function restore() {
    let kept = null;
    try { kept = JSON.parse(localStorage.getItem(key)); } catch { /* as if nothing was kept */ }
    if (!kept) return 0;
    for (const [entry, label] of kept.decisions) if (entry in queue) decisions.set(entry, label);
    $("reviewer").value = kept.reviewer;
    $("hide").checked = kept.hide;
    durations = kept.durations;
    return Math.max(0, shown.indexOf(kept.entry));
  }

  function say(text) { $("status").textContent = text; }
  function element(tag, text, name) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  }
  const current = () => shown[place];
  const rowOf = (entry) => rows[queue[entry].row];
  const names = new Map([...classes.entries(), [CANNOT_SAY, "cannot say"], [OUTSIDE, data.none]]);

  function contentOf(row) {
    if (row.image) {
      const image = element("img", undefined, row.small ? "small" : "");
      image.src = "data:image/png;base64," + row.image;
      image.alt = row.index;
      return image;
    }
    if (row.text !== undefined) {
      const text = element("p", row.text, "text");
      text.dir = "auto";
      return text;
    }
    if (row.values) {
      const values = element("div", undefined, "values");
      for (const [name, value] of row.values) {
        const one = element("div");
        one.append(element("span", name + " "), String(value));
        values.append(one);
      }
      return values;
    }
    return element("p", row.index);
  }

  function decide(label) {
    const entry = current();
    if (entry === undefined) return;
    undone.push([entry, decisions.get(entry)]);
    decisions.set(entry, label);
    durations.push(Math.min(Date.now() - since, 120000));
    say(`${rowOf(entry).index}: ${names.get(label)}`);
    if (place < shown.length - 1) place += 1;
    save();
    draw();
  }
  function undo() {
    const last = undone.pop();
    if (!last) return say("There is nothing to undo.");
    const [entry, before] = last;
    if (before === undefined) decisions.delete(entry); else decisions.set(entry, before);
    durations.pop();
    if (!shown.includes(entry)) clearFilters();
    place = shown.indexOf(entry);
    say(`Undone: ${rowOf(entry).index}`);
    save();
    draw();
  }
  function move(step) {
    place = Math.min(Math.max(place + step, 0), Math.max(shown.length - 1, 0));
    save();
    draw();
  }
  function take() {
    if (current() === undefined) return;
    if (hidden()) { revealed = true; draw(true); return say("Press again if the suggestion is right."); }
    decide(rowOf(current()).suggested);
  }
  const hidden = () => $("hide").checked && !revealed;

  function drawProgress() {
    const done = queue.reduce((sum, entry, i) => sum + (entry.sample && decisions.has(i)), 0);
    const more = decisions.size - done;
    $("progress").max = sampleSize || 1;
    $("progress").value = done;
    const recent = durations.slice(-30);
    const seconds = recent.reduce((a, b) => a + b, 0) / 1000 / (recent.length || 1);
    const minutes = Math.ceil(seconds * (sampleSize - done) / 60);
    const left = recent.length > 4 && done < sampleSize ? `, about ${minutes} min left` : "";
    $("phase").textContent = done < sampleSize
      ? `Random sample: ${done} of ${sampleSize} decided${left}. It measures how many labels are wrong.`
      : `The random sample is complete: export the decisions now, or go on with the rows most likely wrong (${more} of ${queue.length - sampleSize} decided).`;
  }

  function draw(same) {
    if (!same) { revealed = false; since = Date.now(); closeSearch(); }
    drawProgress();
    const entry = current();
    $("place").textContent = shown.length ? `${place + 1} of ${shown.length}` : "No row matches the filters";
    $("view").setAttribute("aria-pressed", String(grid));
    $("grid").hidden = !grid;
    $("content").hidden = grid;
    for (const id of ["keep", "take", "none", "skip", "search"]) $(id).disabled = entry === undefined;
    $("content").replaceChildren();
    $("twin").replaceChildren();
    $("item").className = grid ? "grid" : "";
    const row = entry === undefined ? undefined : rowOf(entry);
    const put = (id, k) => { $(id).querySelector("strong").textContent = k === undefined ? "" : classes[k]; };
    $("name").textContent = row ? `Row ${row.index}` : "";
    put("keep", row?.given);
    put("take", row && !hidden() ? row.suggested : undefined);
    if (row && hidden()) $("take").querySelector("strong").textContent = "hidden";
    $("take").hidden = Boolean(row) && !hidden() && row.suggested === row.given;
    $("decision").textContent = decisions.has(entry) ? `Decided: ${names.get(decisions.get(entry))}` : "";
    if (row && !grid) $("content").append(contentOf(row));
    $("twin").hidden = grid || !row?.twin;
    if (!$("twin").hidden) {
      const { twin } = row;
      const how = twin.similarity === 1 ? "Equal content" : `Nearly the same (${(100 * twin.similarity).toFixed(0)} %)`;
      const given = element("p", `${how}, labelled `);
      given.append(element("strong", classes[twin.given]), `: row ${twin.index}`);
      $("twin").append(given);
      if (twin.similarity < 1) $("twin").append(contentOf(twin));
    }
    if (grid) drawGrid();
  }
  function drawGrid() {
    const first = Math.floor(place / GRID) * GRID;
    const cells = shown.slice(first, first + GRID).map((entry, i) => {
      const row = rowOf(entry);
      const cell = element("div", undefined, decisions.has(entry) ? "cell decided" : "cell");
      cell.tabIndex = first + i === place ? 0 : -1;
      cell.append(contentOf(row));
      cell.append(element("p", `${classes[row.given]} → ${hidden() ? "?" : classes[row.suggested]}`));
      if (decisions.has(entry)) cell.append(element("p", "✓ " + names.get(decisions.get(entry))));
      cell.addEventListener("click", () => { place = first + i; draw(); });
      cell.addEventListener("dblclick", () => { grid = false; draw(); });
      return cell;
    });
    $("grid").className = shown.length && !rowOf(shown[first]).image ? "wide" : "";
    $("grid").replaceChildren(...cells);
    if (cells.length && document.activeElement.tagName !== "INPUT" && document.activeElement.tagName !== "SELECT") {
      cells[place - first].focus();
    }
  }

  // Filters by the given and the suggested class.
  function fillFilter(id, name) {
    const counts = new Map();
    for (const row of rows) counts.set(row[name], (counts.get(row[name]) || 0) + 1);
    const options = [...counts].sort((a, b) => b[1] - a[1]).map(([k, count]) => {
      const option = element("option", `${classes[k]} (${count})`);
      option.value = k;
      return option;
    });
    const all = element("option", `all (${rows.length})`);
    all.value = "";
    $(id).replaceChildren(all, ...options);
    $(id).addEventListener("change", () => { filter(); });
  }
  function filter() {
    const entry = current();
    const [given, suggested, show] = ["given", "suggested", "show"].map((id) => $(id).value);
    shown = [];
    queue.forEach(({ row }, i) => {
      if (given !== "" && rows[row].given !== Number(given)) return;
      if (suggested !== "" && rows[row].suggested !== Number(suggested)) return;
      if (show === "twins" ? !rows[row].twin : show !== "all" && decisions.has(i) !== (show === "done")) return;
      shown.push(i);
    });
    place = Math.max(0, shown.indexOf(entry));
    draw();
  }
  function clearFilters() {
    $("given").value = $("suggested").value = "";
    $("show").value = "all";
    filter();
  }

  // Another class: a list that shrinks while one types.
  function openSearch() {
    const typed = $("search").value.trim().toLowerCase();
    const rank = (name) => (name.startsWith(typed) ? 0 : name.includes(typed) ? 1 : 2);
    matches = classes.map((name, k) => [rank(name.toLowerCase()), k]).filter(([r]) => r < 2)
      .sort((a, b) => a[0] - b[0] || a[1] - b[1]).slice(0, 50).map(([, k]) => k);
    highlighted = matches.length ? Math.min(Math.max(highlighted, 0), matches.length - 1) : -1;
    $("classes").replaceChildren(...matches.map((k, i) => {
      const option = element("li", classes[k]);
      option.id = "class-" + k;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", String(i === highlighted));
      option.addEventListener("mousedown", (event) => { event.preventDefault(); choose(k); });
      return option;
    }));
    $("search").setAttribute("aria-expanded", String(matches.length > 0));
    if (highlighted >= 0) {
      $("search").setAttribute("aria-activedescendant", "class-" + matches[highlighted]);
      $("classes").children[highlighted].scrollIntoView({ block: "nearest" });
    }
  }
  function closeSearch() {
    $("search").value = "";
    $("classes").replaceChildren();
    $("search").setAttribute("aria-expanded", "false");
    $("search").removeAttribute("aria-activedescendant");
    highlighted = -1;
    if (document.activeElement === $("search")) $("search").blur();
  }
  function choose(k) { closeSearch(); decide(k); }

  // Export and import.
  function exported() {
    return [...decisions].sort((a, b) => a[0] - b[0]).map(([entry, label]) => ({
      index: rowOf(entry).index, label: label === CANNOT_SAY ? null : names.get(label), reviewer: $("reviewer").value,
      repeat: queue[entry].repeat,
    }));
  }
  function download(name, text, type) {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`${decisions.size} decisions are in ${name}.`);
  }
  function exportJson() {
    const content = { kind: "layerprobe.decisions.1", audit: data.id, sample: data.sample, decisions: exported() };
    download("decisions.json", JSON.stringify(content, null, 1) + "\n", "application/json");
  }
  function exportCsv() {
    const cell = (value) => {
      const text = value === null ? "" : String(value);
      return `"${(FORMULA.test(text) ? "'" : "") + text.replaceAll('"', '""')}"`;
    };
    const sample = [data.sample.n, data.sample.seed, data.id];
    const lines = exported().map(
      (one) => [one.index, one.label, one.reviewer, one.repeat, ...sample].map(cell).join(","));
    const header = "index,label,reviewer,repeat,sample_n,sample_seed,sample_audit";
    download("decisions.csv", [header, ...lines, ""].join("\n"), "text/csv");
  }
  function parseCsv(text) {
    const lines = [];
    let cells = [], cell = "", quoted = false;
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if (quoted) {
        if (c !== '"') cell += c;
        else if (text[i + 1] === '"') { cell += c; i++; } else quoted = false;
      } else if (c === '"') quoted = true;
      else if (c === ",") { cells.push(cell); cell = ""; }
      else if (c === "\n") { cells.push(cell); lines.push(cells); cells = []; cell = ""; }
      else if (c !== "\r") cell += c;
    }
    if (cell || cells.length) { cells.push(cell); lines.push(cells); }
    const [header, ...rest] = lines;
    const plain = (value) => (value[0] === "'" && FORMULA.test(value.slice(1)) ? value.slice(1) : value);
    return rest.filter((line) => line.length === header.length)
      .map((line) => Object.fromEntries(line.map((value, i) => [header[i], plain(value)])));
  }
  async function importFile(file) {
    let records;
    try {
      const text = await file.text();
      records = file.name.toLowerCase().endsWith(".csv") ? parseCsv(text) : JSON.parse(text);
      if (!Array.isArray(records)) records = records.decisions;
      if (!records.every((one) => "index" in one && "label" in one)) throw new Error();
    } catch {
      return say(`${file.name} holds no decisions: expected an export of this page.`);
    }
    const entries = new Map();
    queue.forEach(({ row, repeat }, i) => entries.set(rows[row].index + (repeat ? "\n" : ""), i));
    const numbers = new Map([[data.none, OUTSIDE], ...classes.map((name, k) => [name, k])]);
    let unknown = 0;
    for (const one of records) {
      const entry = entries.get(String(one.index) + (String(one.repeat).toLowerCase() === "true" ? "\n" : ""));
      const label = one.label === null || one.label === "" ? CANNOT_SAY : numbers.get(String(one.label));
      if (entry === undefined || label === undefined) { unknown += 1; continue; }
      decisions.set(entry, label);
      if (one.reviewer) $("reviewer").value = one.reviewer;
    }
    save();
    filter();
    say(`${records.length - unknown} decisions imported` + (unknown ? `; ${unknown} name unknown rows or labels.` : "."));
  }

  const step = () => (grid ? Math.max(1, Math.round($("grid").clientWidth / ($("grid").firstChild?.offsetWidth || 1) - 0.4)) : 1);
  const keys = {
    g: () => current() !== undefined && decide(rowOf(current()).given),
    s: take,
    c: () => decide(CANNOT_SAY),
    n: () => decide(OUTSIDE),
    o: () => { $("search").focus(); openSearch(); },
    z: undo,
    h: () => { $("hide").checked = !$("hide").checked; save(); draw(true); },
    v: () => { grid = !grid; draw(); },
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
    ArrowUp: () => move(-step()),
    ArrowDown: () => move(step()),
    PageUp: () => move(-GRID),
    PageDown: () => move(GRID),
    Home: () => move(-shown.length),
    End: () => move(shown.length),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === $("search")) {
      if (event.key === "Escape") closeSearch();
      else if (event.key === "Enter" && highlighted >= 0) choose(matches[highlighted]);
      else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        highlighted += event.key === "ArrowDown" ? 1 : -1;
        openSearch();
      } else return;
      return event.preventDefault();
    }
    if (["INPUT", "SELECT"].includes(event.target.tagName) && event.target.type !== "checkbox") return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (grid && event.key === "Enter" && event.target.className.startsWith("cell")) { grid = false; draw(); return; }
    if (!action) return;
    event.preventDefault();
    action();
  });
  $("search").addEventListener("input", () => { highlighted = 0; openSearch(); });
  $("search").addEventListener("focus", openSearch);
  $("search").addEventListener("blur", closeSearch);
  for (const [id, action] of Object.entries({
    keep: keys.g, take, skip: keys.c, none: keys.n, undo, previous: keys.ArrowLeft, next: keys.ArrowRight, view: keys.v,
    json: exportJson, csv: exportCsv,
  })) $(id).addEventListener("click", (event) => { action(); event.currentTarget.blur(); });
  $("hide").addEventListener("change", () => { save(); draw(true); });
  $("show").addEventListener("change", filter);
  $("reviewer").addEventListener("change", save);
  $("import").addEventListener("change", (event) => {
    if (event.target.files.length) importFile(event.target.files[0]);
    event.target.value = "";
  });
  fillFilter("given", "given");
  fillFilter("suggested", "suggested");
  place = restore();
  draw();
})();
