"use strict";
// One object says what is shown (`state`); `show` draws all of it. Numbers are whole numbers of the last digit that is
// shown, made in Python: nothing is averaged, estimated or rounded here.

const byId = (id) => document.getElementById(id);
const index = JSON.parse(byId("index").textContent);
const many = index.sheets.length > 1;
const state = { sheet: 0, component: "", kind: 0, metric: "effect", variable: "probability", nu: 0, unit: -1, layer: 0, row: 0 };
const BYTES = { i1: 1, i2: 2, i4: 4, f8: 8 };
const READ = { i1: "getInt8", i2: "getInt16", i4: "getInt32", f8: "getFloat64" };
const METRIC = { effect: "indirect effect", relevance: "relevance", restored: index.noising ? "damaged run" : "restored run" };

// ---- numbers --------------------------------------------------------------------------------

/** What Pack.text of packing.py wrote: what is said, and a function that reads one array, NaN where nothing is known. */
async function unpack(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(data.buffer).getUint32(0, true);
  const said = JSON.parse(new TextDecoder().decode(data.subarray(4, 4 + length)));
  const arrays = new Map();
  const read = (place) => {
    const [type, start, count] = place;
    if (arrays.has(start)) return arrays.get(start);
    const size = BYTES[type], from = 4 + length + start;
    const nothing = -(2 ** (8 * size - 1));
    const one = new DataView(new ArrayBuffer(8)), found = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      for (let byte = 0; byte < size; byte++) one.setUint8(byte, data[from + byte * count + i]);
      const number = one[READ[type]](0, true);
      found[i] = type !== "f8" && number === nothing ? NaN : number;
    }
    arrays.set(start, found);
    return found;
  };
  return { said, read };
}

let sheet; // of the chosen example: what unpack gives, its units by variable, and its maps by name

const node = () => sheet.said.maps[state.component];
const size = () => { const map = node(); return [map.kinds.length, map.layers.length, map.rows.length]; };

function place(nu, layer, row, map = node(), kind = state.kind) {
  return ((nu * map.kinds.length + kind) * map.layers.length + layer) * map.rows.length + row;
}

/** The mean of a cell with its interval: whole numbers, and why there is no interval. */
function mean(component, kind, nu, layer, row, metric = state.metric) {
  const map = sheet.said.maps[component], at = place(nu, layer, row, map, kind);
  const own = metric === "relevance" ? map.relevance : map.effect;
  const [value, low, high, mark] = ["value", "low", "high", "mark"].map((part) => sheet.read(own[state.variable][part])[at]);
  if (metric !== "restored") return { value, low, high, mark };
  const ends = sheet.said.numbers[state.variable];
  const end = index.noising ? sheet.read(ends.clean)[0] - value : sheet.read(ends.corrupted)[nu] + value;
  return { value: end + sheet.read(map.restored[state.variable])[at], low: NaN, high: NaN, mark, effect: { value, low, high } };
}

/** The number of a cell in one draw (or of one example). */
function ofUnit(component, kind, nu, layer, row, unit) {
  const map = sheet.said.maps[component], units = sheet.units;
  if (!units || state.metric === "relevance") return NaN;
  const cells = map.kinds.length * map.layers.length * map.rows.length;
  const at = unit * index.nus.length * cells + place(nu, layer, row, map, kind);
  const own = units.said.maps[component], effect = units.read(own.effect)[at];
  if (state.metric === "effect") return effect;
  const end = index.noising ? units.read(units.said.clean)[unit] - effect : units.read(units.said.corrupted)[unit * index.nus.length + nu] + effect;
  return end + units.read(own.restored)[at];
}

/** What a cell shows: the mean with its interval, or one draw without. */
function shown(component, kind, nu, layer, row) {
  if (state.unit < 0) return mean(component, kind, nu, layer, row);
  return { value: ofUnit(component, kind, nu, layer, row, state.unit), low: NaN, high: NaN, mark: -1 };
}

const digits = () => (state.metric === "relevance" ? index.shares : index.variables[state.variable].digits);
const signed = () => state.metric !== "restored";

function text(number, after = digits(), sign = signed()) {
  if (Number.isNaN(number) || number === undefined) return "no value";
  const said = (Math.abs(number) / 10 ** after).toFixed(after);
  return (number < 0 ? "−" : sign && number > 0 ? "+" : "") + said;
}

function interval(one, after = digits(), sign = signed()) {
  return Number.isNaN(one.low) ? "" : `${text(one.low, after, sign)} to ${text(one.high, after, sign)}`;
}

const unitName = () => (isMean() ? "example" : "draw");
const isMean = () => index.sheets[state.sheet].example === null;
const measured = () => {
  const { name, unit } = index.variables[state.variable];
  return state.metric === "relevance" ? `by ${name}` : unit ? `${name}, ${unit}` : name;
};

/** Everything that is known of a cell, a line each. */
function described(component, kind, nu, layer, row) {
  const map = sheet.said.maps[component], one = shown(component, kind, nu, layer, row);
  const lines = [`${spoken(component)}, ${map.kinds[kind]}, layer ${map.layers[layer]}, ${rowName(map, row, true)}`];
  lines.push(`${METRIC[state.metric]} (${measured()}) at ν = ${index.nus[nu]}: ${text(one.value)}`);
  if (state.unit >= 0) lines.push(`${unitName()} ${sheet.said.units[state.unit]} alone, no interval`);
  else if (one.effect) {
    lines.push(`its indirect effect: ${text(one.effect.value, digits(), true)}${Number.isNaN(one.effect.low) ? "" : `, 95 % interval ${interval(one.effect, digits(), true)}`}`);
    if (one.mark > 1) lines.push(`no interval: ${index.marks[one.mark]}`);
  } else if (!Number.isNaN(one.low)) lines.push(`95 % interval ${interval(one)}${one.mark === 1 ? ", which includes 0" : ""}`);
  else if (one.mark > 1) lines.push(`no interval: ${index.marks[one.mark]}`);
  if (structural(map, kind, layer, row)) lines.push("restores by construction: no finding");
  return lines;
}

function structural(map, kind, layer, row) {
  return sheet.read(map.structural)[(kind * map.layers.length + layer) * map.rows.length + row] === 1;
}

function rowName(map, row, long = false) {
  if (isMean() && !map.grid) return long ? `role “${map.rows[row]}”` : map.rows[row];
  const what = map.grid && row ? "region" : "token";
  const role = long && map.roles[row] && map.roles[row] !== map.rows[row] ? ` (${map.roles[row]})` : "";
  return long ? `${what} ${row} “${map.rows[row]}”${role}` : `${row}  ${map.rows[row]}`;
}

const spoken = (name) => name.replaceAll("_", " ");

// ---- colours --------------------------------------------------------------------------------

/** The ends of the colours: of all ν, so that they stay when ν moves, and of all draws where one is shown. */
function limits(component, kind) {
  const map = sheet.said.maps[component];
  let low = Infinity, high = -Infinity;
  const units = state.unit < 0 ? [-1] : sheet.said.units.keys();
  for (const unit of units)
    for (let nu = 0; nu < index.nus.length; nu++)
      for (let layer = 0; layer < map.layers.length; layer++)
        for (let row = 0; row < map.rows.length; row++) {
          const value = unit < 0 ? mean(component, kind, nu, layer, row).value : ofUnit(component, kind, nu, layer, row, unit);
          if (value < low) low = value;
          if (value > high) high = value;
        }
  const least = index.least * 10 ** digits();
  if (state.metric !== "restored") {
    const most = Math.max(Math.abs(low), Math.abs(high), least);
    return Number.isFinite(most) ? [-most, most] : [-least, least];
  }
  if (!Number.isFinite(low)) return [0, least];
  const spare = Math.max(0, least - (high - low)) / 2;
  return [low - spare, high + spare];
}

function colour(value, [low, high]) {
  if (Number.isNaN(value)) return "#d9d9d9";
  const palette = index.colours[state.metric === "restored" ? "sequential" : "diverging"];
  return palette[Math.round(((value - low) / (high - low)) * (palette.length - 1))];
}

/** Black or white, whichever is seen on a colour. */
function ink(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) || 0);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 130 ? "#333" : "#fff";
}

// ---- charts ---------------------------------------------------------------------------------

const views = {};

/** Make a chart; a click on a mark hands its row to `picked`. */
async function chart(name, picked) {
  const { view } = await vegaEmbed(byId(name), index.charts[name], {
    mode: "vega-lite", renderer: "svg", actions: false, hover: false, logLevel: 1, tooltip: (_, event, item) => tip(event, item?.datum?.says),
  });
  view.addEventListener("click", (_, item) => item?.datum?.key !== undefined && picked(item.datum));
  views[name] = view;
}

function draw(name, rows, references, signals = {}) {
  const view = views[name].data("rows", rows);
  if (references) view.data("references", references);
  for (const [signal, value] of Object.entries(signals)) view.signal(signal, value);
  return view.resize().runAsync();
}

function tip(event, said) {
  const box = byId("tip");
  box.hidden = !said;
  if (!said) return;
  box.textContent = said;
  const { innerWidth, innerHeight } = window, { offsetWidth, offsetHeight } = box;
  box.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - offsetWidth - 8))}px`;
  box.style.top = `${event.clientY + 18 + offsetHeight > innerHeight ? event.clientY - offsetHeight - 10 : event.clientY + 18}px`;
}

function rowsOfMap() {
  const map = node(), ends = limits(state.component, state.kind), rows = [];
  map.rows.forEach((_, row) => map.layers.forEach((depth, layer) => {
    const one = shown(state.component, state.kind, state.nu, layer, row), fill = colour(one.value, ends);
    rows.push({
      key: layer * map.rows.length + row, layer: depth, row: rowName(map, row), colour: fill, ink: ink(fill),
      mark: one.mark === 1 ? "hatched" : one.mark > 1 && !Number.isNaN(one.value) ? "dotted" : "",
      structural: structural(map, state.kind, layer, row), picked: layer === state.layer && row === state.row,
      says: described(state.component, state.kind, state.nu, layer, row).join("\n"),
      at: [layer, row], value: text(one.value), interval: one.effect ? interval(one.effect, digits(), true) : interval(one),
    });
  }));
  return { rows, ends };
}

function showMap() {
  const map = node(), { rows, ends } = rowsOfMap();
  const reasons = new Set(rows.map((row) => row.mark));
  const whole = rows.filter((row) => row.value !== "no value");
  const noneSure = whole.length > 0 && whole.every((row) => row.mark === "dotted");
  if (noneSure) rows.forEach((row) => (row.mark = ""));
  byId("map-title").textContent = `${spoken(state.component)}, ${map.kinds[state.kind]}`;
  const many = isMean() ? `mean of ${sheet.said.units.length} examples` : `mean of ${sheet.said.units.length} draws`;
  const which = state.unit < 0 ? many : `${unitName()} ${sheet.said.units[state.unit]}`;
  byId("map-said").textContent = `${METRIC[state.metric]}, ${measured()}, ν = ${index.nus[state.nu]}, ${which}` + (whole.length ? "" : ". No values here" + (state.metric === "relevance" ? ": the total effect is below the threshold of relevance." : "."));
  byId("low").textContent = text(ends[0]);
  byId("high").textContent = text(ends[1]);
  const palette = index.colours[state.metric === "restored" ? "sequential" : "diverging"];
  byId("bar").style.background = `linear-gradient(to right, ${palette.join(",")})`;
  const swatch = {
    hatched: '<path d="M1 8L8 1M1 15L15 1M8 15L15 8" stroke="currentColor" fill="none"/>',
    dotted: '<circle cx="8" cy="8" r="2" fill="currentColor"/>',
    framed: '<rect x="2" y="2" width="12" height="12" fill="none" stroke="currentColor" stroke-width="2" stroke-dasharray="4 2"/>',
    grey: '<rect x="1" y="1" width="14" height="14" fill="#d9d9d9"/>',
  };
  const names = { hatched: `95 % interval ${state.metric === "restored" ? "of the effect " : ""}includes 0`, dotted: "no interval: choose the cell to see why", framed: "restores by construction: no finding", grey: "no value" };
  const there = Object.keys(swatch).filter((name) => (name === "framed" ? rows.some((row) => row.structural) : name === "grey" ? whole.length < rows.length : !noneSure && reasons.has(name)));
  byId("marks").replaceChildren(...there.map((name) => {
    const item = document.createElement("li");
    item.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true">${swatch[name]}</svg>`;
    item.append(names[name]);
    return item;
  }));
  if (noneSure) {
    const item = document.createElement("li");
    item.textContent = `No intervals: ${[...new Set(rows.map((row) => mean(state.component, state.kind, state.nu, ...row.at).mark))].map((mark) => index.marks[mark]).join("; ")}.`;
    byId("marks").append(item);
  }
  table("map", ["layer", isMean() ? "role" : "token", METRIC[state.metric], state.metric === "restored" ? "95 % interval of the effect" : "95 % interval", "note"], () =>
    rows.map((row) => [row.layer, row.row, row.value, row.interval, notes(row)]));
  return draw("map", rows);
}

function notes(row) {
  const { mark } = mean(state.component, state.kind, state.nu, ...row.at);
  return [row.structural && "restores by construction", state.unit < 0 && mark > 0 && index.marks[mark]].filter(Boolean).join("; ");
}

function showCell() {
  byId("cell").textContent = described(state.component, state.kind, state.nu, state.layer, state.row).join("; ") + ".";
  const after = 10 ** digits(), at = [state.layer, state.row];
  const curve = index.nus.map((nu, key) => {
    const one = shown(state.component, state.kind, key, ...at);
    return {
      key, nu, value: one.value / after, low: one.low / after, high: one.high / after, here: key === state.nu, said: text(one.value),
      interval: one.effect ? interval(one.effect, digits(), true) : interval(one), note: one.mark > 0 ? index.marks[one.mark] : "",
      says: described(state.component, state.kind, key, ...at).join("\n"),
    };
  }).filter((row) => !Number.isNaN(row.value));
  const ends = sheet.said.numbers[state.variable];
  const references = state.metric === "restored" ? [["clean", sheet.read(ends.clean)[0]]] : [["", 0]];
  table("curve", ["ν", METRIC[state.metric], state.metric === "restored" ? "95 % interval of the effect" : "95 % interval", "note"], () => curve.map((row) => [row.nu, row.said, row.interval, row.note]));
  return Promise.all([
    draw("curve", curve, references.map(([name, value]) => ({ name, value: value / after })), { nus: index.nus }),
    showSpread(after, at),
  ]);
}

function showSpread(after, at) {
  const all = mean(state.component, state.kind, state.nu, ...at), rows = [];
  byId("spread-title").textContent = `${isMean() ? "Examples" : "Draws"} at ν = ${index.nus[state.nu]}`;
  let said = "";
  if (state.metric === "relevance") said = "Relevance is a ratio of means over the draws: single draws have none.";
  else if (!sheet.units) said = `The numbers of single ${unitName()}s by ${index.variables[state.variable].name} are not on this page, which would be too large.`;
  else {
    sheet.said.units.forEach((name, key) => {
      const value = ofUnit(state.component, state.kind, state.nu, ...at, key);
      if (!Number.isNaN(value)) rows.push({ key, name, unit: key, value: value / after, here: key === state.unit, said: text(value), says: `${unitName()} ${name}\n${METRIC[state.metric]} ${text(value)}` });
    });
    said = `Each point is one ${unitName()}, from first to last downwards; the line is their mean${Number.isNaN(all.low) ? "" : " and the band its 95 % interval"}.`;
  }
  byId("spread-said").textContent = said;
  table("spread", [unitName(), METRIC[state.metric]], () => rows.map((row) => [row.name, row.said]));
  const mine = Number.isNaN(all.value) || !rows.length ? [] : [{ value: all.value / after, low: all.low / after, high: all.high / after }];
  return draw("spread", rows, mine);
}

function showGamma() {
  const rows = [], after = 10 ** index.shares;
  for (const [name, map] of Object.entries(sheet.said.maps)) {
    const kind = map.kinds.indexOf(node().kinds[state.kind]);
    if (kind < 0) continue;
    index.nus.forEach((nu, at) => {
      const [value, low, high, mark] = ["value", "low", "high", "mark"].map((part) => sheet.read(map.gamma[part])[at * map.kinds.length + kind]);
      const sure = { low, high }, said = text(value, index.shares, true), between = interval(sure, index.shares, true);
      rows.push({
        key: at, component: spoken(name), nu, value: value / after, low: low / after, high: high / after, said, interval: between, note: mark > 0 ? index.marks[mark] : "",
        says: `${spoken(name)}\nΓ(${nu}) = ${said}${between ? `\n95 % interval ${between}` : mark > 1 ? `\nno interval: ${index.marks[mark]}` : ""}`,
      });
    });
  }
  const drawn = rows.filter((row) => !Number.isNaN(row.value));
  const over = isMean() ? "examples" : "draws";
  byId("gamma-said").textContent = `${node().kinds[state.kind]}, by probability; bars are 95 % intervals over the ${over}.` + (drawn.length ? "" : " Undefined here: the total effect is below the threshold of relevance at every ν.");
  byId("gamma").hidden = !drawn.length;
  table("gamma", ["component", "ν", "Γ", "95 % interval", "note"], () => rows.map((row) => [row.component, row.nu, row.said, row.interval, row.note]));
  return draw("gamma", drawn, null, { nus: index.nus });
}

/** The twin of a chart, made when it is open. */
const twins = {};
function table(name, heads, rows) {
  twins[name] = () => {
    const made = document.createElement("table"), head = made.createTHead().insertRow(), body = made.createTBody();
    for (const one of heads) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = one;
      head.append(cell);
    }
    for (const row of rows()) {
      const line = body.insertRow();
      for (const one of row) line.insertCell().textContent = one;
    }
    byId(`${name}-table`).querySelector(".table").replaceChildren(made);
  };
  if (byId(`${name}-table`).open) twins[name]();
}

// ---- picture --------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

/** The layer of the image encoder whose regions are on the picture: the chosen one, else the last. */
function regionsAt() {
  const map = sheet.said.maps.image_encoder;
  if (!map || !map.grid) return null;
  const mine = state.component === "image_encoder";
  return { map, layer: mine ? state.layer : map.layers.length - 1, kind: mine ? state.kind : 0 };
}

function showPicture() {
  const { example, question, missing } = index.sheets[state.sheet];
  const source = example === null ? null : byId(`picture-${example}`);
  const regions = regionsAt(), image = byId("picture"), svg = byId("regions");
  byId("frame").hidden = !source && !regions;
  image.hidden = !source;
  if (source) {
    const url = `data:image/webp;base64,${source.textContent}`;
    if (image.src !== url) image.src = url;
    image.decode().then(() => image.classList.toggle("small", image.naturalWidth < 200));
    image.alt = `The picture of which is asked: ${question}`;
  }
  byId("frame").style.aspectRatio = source ? "" : "1";
  byId("picture-missing").textContent = source ? "" : example === null ? "Regions of all pictures together: the model sees each stretched to a square." : `No picture: ${missing}.`;
  svg.style.display = regions ? "" : "none";
  if (!regions) {
    byId("picture-said").textContent = source ? "No regions of the picture were traced." : "";
    return;
  }
  const { map, layer, kind } = regions, [down, across] = map.grid, ends = limits("image_encoder", kind);
  svg.setAttribute("viewBox", `0 0 ${across} ${down}`);
  byId("picture-said").textContent = `image encoder, ${map.kinds[kind]} of layer ${map.layers[layer]}: ${METRIC[state.metric]} of each region, ${measured()}. The stronger, the more colour.`;
  const rects = [];
  const box = (row, name) => {
    const rect = document.createElementNS(SVG, "rect"), at = row - 1;
    for (const [key, value] of Object.entries({ x: at % across, y: Math.floor(at / across), width: 1, height: 1, class: name })) rect.setAttribute(key, value);
    return rect;
  };
  for (let row = 1; row < map.rows.length; row++) {
    const rect = box(row, "region"), { value } = shown("image_encoder", kind, state.nu, layer, row);
    const middle = (ends[0] + ends[1]) / 2;
    // one red and one blue, of which there is the more the stronger the effect, so that the picture is seen through them
    const strength = state.metric === "restored" ? 1 : Math.abs(value - middle) / (ends[1] - middle);
    const most = signed() && !Number.isNaN(value) ? ends[value < 0 ? 0 : 1] * 0.7 : value;
    rect.setAttribute("fill", colour(most, ends));
    rect.setAttribute("fill-opacity", 0.65 * (Number.isNaN(strength) ? 1 : strength));
    rect.dataset.row = row;
    rects.push(rect);
  }
  if (state.component === "image_encoder" && state.row > 0) rects.push(box(state.row, "halo"), box(state.row, "picked"));
  svg.replaceChildren(...rects);
}

function pickRegion(row) {
  const { layer, kind } = regionsAt();
  Object.assign(state, { component: "image_encoder", layer, kind, row });
  return show();
}

// ---- what is chosen -------------------------------------------------------------------------

function showFacts() {
  const { example, question, answer, predicted, question_type, name } = index.sheets[state.sheet];
  const count = sheet.said.units.length, numbers = sheet.said.numbers.probability, after = index.variables.probability.digits;
  byId("question").textContent = example === null ? `All ${count} examples together` : question || name;
  byId("said").textContent = example === null ? "Means over the examples, by the role of each word." : [question_type && `type ${question_type}`, name].filter(Boolean).join(" · ");
  const total = Object.fromEntries(["value", "low", "high", "mark"].map((part) => [part, sheet.read(numbers.total[part])[state.nu]]));
  const facts = [];
  if (example !== null && answer) facts.push(["Answer", answer, predicted && predicted !== answer ? `the model's own: ${predicted}` : "the model's own"]);
  const of = example === null ? "mean P(answer)" : "P(answer)";
  facts.push([`${of}, clean`, text(sheet.read(numbers.clean)[0], after, false)]);
  facts.push([`${of}, corrupted`, text(sheet.read(numbers.corrupted)[state.nu], after, false)]);
  const between = interval(total, after, true);
  facts.push(["Total effect", text(total.value, after, true), between ? `95 % interval ${between}` : total.mark > 1 ? `no interval: ${index.marks[total.mark]}` : ""]);
  byId("facts").replaceChildren(...facts.map(([term, value, more]) => {
    const group = document.createElement("div"), parts = [["dt", term], ["dd", value], ["dd", more]];
    for (const [tag, said] of parts) {
      if (!said) continue;
      const made = document.createElement(tag);
      if (said === more) made.append(Object.assign(document.createElement("small"), { textContent: said }));
      else made.textContent = said;
      group.append(made);
    }
    return group;
  }));
}

function options(id, texts, chosen) {
  const select = byId(id);
  const said = JSON.stringify(texts);
  if (select.dataset.said !== said) {
    select.replaceChildren(...texts.map(([value, name]) => new Option(name, value)));
    select.dataset.said = said;
  }
  select.value = chosen;
}

function showControls() {
  byId("nu").value = state.nu;
  byId("nu").setAttribute("aria-valuetext", `ν = ${index.nus[state.nu]}`);
  byId("nu-said").textContent = index.nus[state.nu];
  options("component", Object.keys(sheet.said.maps).map((name) => [name, spoken(name)]), state.component);
  options("kind", node().kinds.map((name, at) => [at, name]), state.kind);
  byId("metric").value = state.metric;
  byId("variable").value = state.variable;
  byId("unit-label").textContent = isMean() ? "Example" : "Draw";
  options("unit", [[-1, `mean of ${sheet.said.units.length}`], ...sheet.said.units.map((name, at) => [at, isMean() ? name : `draw ${name}`])], state.unit);
  byId("unit").disabled = state.metric === "relevance" || !sheet.units;
}

/** What is chosen, kept where it still is. */
function fit() {
  if (!sheet.said.maps[state.component]) state.component = Object.keys(sheet.said.maps).find((name) => name === "question_encoder") || Object.keys(sheet.said.maps)[0];
  const [kinds, layers, rows] = size();
  if (state.kind >= kinds) state.kind = 0;
  state.layer = Math.min(state.layer, layers - 1);
  state.row = Math.min(state.row, rows - 1);
  if (state.unit >= sheet.said.units.length || state.metric === "relevance" || !sheet.units) state.unit = -1;
}

let turn = 0;
async function show() {
  const mine = ++turn;
  const id = `units-${state.sheet}-${state.variable}`;
  if (sheet.variable !== state.variable) {
    const units = byId(id) ? await unpack(id) : null;
    if (mine !== turn) return;
    Object.assign(sheet, { units, variable: state.variable });
  }
  fit();
  showControls();
  showFacts();
  showPicture();
  showList();
  await Promise.all([showMap(), showCell(), showGamma()]);
  if (mine === turn) document.body.dataset.shown = String(mine);
}

async function choose(number) {
  const mine = ++turn;
  const found = await unpack(`sheet-${number}`);
  if (mine !== turn) return;
  sheet = found;
  state.sheet = number;
  state.unit = -1;
  fit();
  strongest();
  await show();
}

/** Begin at the cell of most effect among those that do not restore by construction. */
function strongest() {
  const [, layers, rows] = size();
  let most = -1;
  for (let layer = 0; layer < layers; layer++)
    for (let row = 0; row < rows; row++) {
      const value = Math.abs(mean(state.component, state.kind, state.nu, layer, row, "effect").value);
      if (value > most && !structural(node(), state.kind, layer, row)) [most, state.layer, state.row] = [value, layer, row];
    }
}

function showList() {
  if (!many) return;
  const type = byId("type").value, sort = byId("sort").value, word = byId("find").value.trim().toLowerCase();
  const effect = (one) => index.sheets[one].total[state.nu] ?? -Infinity;
  let chosen = index.sheets.keys().filter ? [...index.sheets.keys()] : Array.from(index.sheets.keys());
  chosen = chosen.filter((one) => {
    const { example, question_type, question, answer, name } = index.sheets[one];
    if (example === null) return false;
    return (!type || question_type === type) && (!word || `${question} ${answer} ${name}`.toLowerCase().includes(word));
  });
  const count = chosen.length;
  if (sort === "question") chosen.sort((a, b) => index.sheets[a].question.localeCompare(index.sheets[b].question));
  if (sort === "down") chosen.sort((a, b) => effect(b) - effect(a));
  if (sort === "up") chosen.sort((a, b) => effect(a) - effect(b));
  if (index.sheets[0].example === null) chosen.unshift(0);
  const held = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.sheet : undefined;
  byId("listed").textContent = `${count} of ${index.sheets.filter((one) => one.example !== null).length}`;
  byId("examples").replaceChildren(...chosen.map((one) => {
    const item = document.createElement("li"), button = document.createElement("button"), more = document.createElement("small");
    const { example, question, answer, name } = index.sheets[one], total = index.sheets[one].total[state.nu];
    button.type = "button";
    button.dataset.sheet = one;
    button.textContent = example === null ? "All examples together" : question || name;
    more.textContent = [example !== null && answer, total === null ? "no total effect" : `total effect ${total.toFixed(2).replace("-", "−")}`].filter(Boolean).join(" · ");
    button.append(more);
    if (one === state.sheet) button.setAttribute("aria-current", "true");
    item.append(button);
    return item;
  }));
  if (held !== undefined) byId("examples").querySelector(`[data-sheet="${held}"]`)?.focus();
}

// ---- controls -------------------------------------------------------------------------------

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function keys(id, moved) {
  byId(id).addEventListener("keydown", (event) => {
    if (!ARROWS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moved(...ARROWS[event.key]);
  });
}

const inside = (number, count) => Math.max(0, Math.min(count - 1, number));

function listen() {
  const on = (id, does) => byId(id).addEventListener("input", (event) => { does(event.target.value); show(); });
  byId("nu").max = index.nus.length - 1;
  on("nu", (value) => (state.nu = Number(value)));
  on("metric", (value) => (state.metric = value));
  on("variable", (value) => (state.variable = value));
  on("unit", (value) => (state.unit = Number(value)));
  on("kind", (value) => (state.kind = Number(value)));
  on("component", (value) => {
    const kind = node().kinds[state.kind];
    state.component = value;
    state.kind = Math.max(0, node().kinds.indexOf(kind));
    strongest();
  });
  options("variable", Object.entries(index.variables).map(([name, said]) => [name, said.name + (said.unit ? ` (${said.unit})` : "")]), state.variable);
  keys("map", (across, down) => {
    const [, layers, rows] = size();
    Object.assign(state, { layer: inside(state.layer + across, layers), row: inside(state.row + down, rows) });
    show();
  });
  keys("regions", (across, down) => {
    const { map } = regionsAt(), [high, wide] = map.grid;
    const from = state.component === "image_encoder" && state.row > 0 ? state.row - 1 : 0;
    pickRegion(1 + inside(Math.floor(from / wide) + down, high) * wide + inside((from % wide) + across, wide));
  });
  const svg = byId("regions");
  svg.addEventListener("click", (event) => event.target.dataset.row && pickRegion(Number(event.target.dataset.row)));
  svg.addEventListener("pointermove", (event) => {
    const row = Number(event.target.dataset.row), { layer, kind } = regionsAt();
    tip(event, row ? described("image_encoder", kind, state.nu, layer, row).join("\n") : "");
  });
  svg.addEventListener("pointerleave", (event) => tip(event, ""));
  for (const name of Object.keys(index.charts)) byId(`${name}-table`).addEventListener("toggle", () => twins[name]());
  document.addEventListener("keydown", (event) => event.key === "Escape" && tip(event, ""));
  if (!many) return;
  for (const id of ["type", "sort", "find"]) byId(id).addEventListener("input", showList);
  byId("examples").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose(Number(button.dataset.sheet));
  });
  if (window.matchMedia("(max-width: 900px)").matches) byId("list").open = false;
}

async function begin() {
  const five = index.nus.indexOf(5);
  state.nu = five >= 0 ? five : index.nus.length - 1;
  await Promise.all([
    chart("map", ({ at: [layer, row] }) => { Object.assign(state, { layer, row }); show(); }),
    chart("curve", ({ key }) => { state.nu = key; show(); }),
    chart("spread", ({ key }) => { state.unit = state.unit === key ? -1 : key; show(); }),
    chart("gamma", ({ key }) => { state.nu = key; show(); }),
  ]);
  listen();
  await choose(0);
}

begin();
