// The page: what is chosen, what is asked, and where the answers go.
import * as api from "./api.js";
import { Pad } from "./pad.js";
import { drawInput, drawOverlay, drawSigned, most } from "./draw.js";
import { TraceView, TRACE_WORDS, fill, shade } from "./trace.js";
import { WORDS } from "./words.js";

const byId = (id) => document.getElementById(id);
// All layers at once while drawing, where they are no more than this; else those that are open.
const MOST_LIVE_VALUES = 60_000;
const MOST_MAPS = 64;
// What centring means for a gray network that says nothing of what it learned.
const MNIST = { field: 28, box: 20, is_by_mass: true };
const OVERLAYS = ["occlusion", "grad_cam", "saliency", "integrated_gradients", "guided_backpropagation", "guided_grad_cam"];
const SHOWN = {
  occlusion: "drop", grad_cam: "upsampled", saliency: "saliency",
  integrated_gradients: "attribution", guided_backpropagation: "attribution", guided_grad_cam: "attribution",
};

const state = {
  words: WORDS.en, language: "en", targets: [], first: null, second: null, info: null, secondInfo: null,
  // Without `info` a network that is ready can be asked for its answer alone.
  isReady: false,
  maps: null, seen: null, unit: null, overlay: null, trace: null,
  dirtyFrom: null, isAsking: false, isStale: false, isLooking: false,
};

// --- small things -------------------------------------------------------------------------------

const number = (value, digits = 4) => (Number.isFinite(value) ? value.toFixed(digits) : "");
const kept = {
  get: (name) => { try { return localStorage.getItem(`convzoo.${name}`); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(`convzoo.${name}`, value); } catch { /* private windows keep nothing */ } },
};

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Each part of the page has its own trouble, and only takes back its own.
const troubles = new Map();

function tell(error, part = "page") {
  if (error.name === "AbortError") return;
  if (error.status === 404) { tellMissing(error, part); return; }
  const text = error instanceof api.ServerError
    // There is never more than one image here to be told apart.
    ? (error.message === "offline" ? state.words.offline : error.message.replace(/^Image 0: /, ""))
    : String(error.message ?? error);
  say(text, part);
}

let catchingUp = null;

// A version that is gone has a successor, mostly: the page goes on with that.
async function tellMissing(error, part) {
  catchingUp ??= catchUp().finally(() => { catchingUp = null; });
  try {
    await catchingUp;
  } catch (failure) {
    if (failure.status !== 404) { tell(failure, part); return; }
  }
  const isStill = [state.first, state.second]
    .some((each) => each && error.path.startsWith(`${api.place(each)}/`));
  if (isStill) say(error.message, part);
}

async function catchUp() {
  const before = { first: state.first, second: state.second };
  const targets = await api.served();
  const successor = (target) => target && (targets.find((each) => name(each) === name(target))
    ?? targets.find((each) => each.model === target.model));
  state.targets = targets;
  state.first = successor(before.first) ?? before.first;
  state.second = successor(before.second) ?? null;
  fillTargets();
  if (!targets.length) { say(state.words.noModels); return; }
  if (name(state.second) !== name(before.second)) await chooseSecond(byId("second").value);
  if (name(state.first) !== name(before.first)) await choose(state.first);
  else if (!successor(before.first)) await choose(targets[0]).then(fillTargets);
}

function say(text, part = "page") {
  if (text) troubles.set(part, text);
  else troubles.delete(part);
  const all = [...new Set(troubles.values())].join(" ");
  if (byId("alert").textContent !== all) byId("alert").textContent = all;
}

const size = (shape) => shape.reduce((a, b) => a * b, 1);
const isBgr = () => state.info?.colour === "bgr";
const name = (target) => (target ? `${target.model} ${target.version}` : "");

// --- words, theme -------------------------------------------------------------------------------

function speak(language) {
  state.language = WORDS[language] ? language : "en";
  state.words = WORDS[state.language];
  document.documentElement.lang = state.language === "zh" ? "zh-Hans" : "en";
  document.title = state.words.title;
  for (const each of document.querySelectorAll("[data-word]")) each.textContent = state.words[each.dataset.word];
  for (const each of document.querySelectorAll("[data-label]")) each.setAttribute("aria-label", state.words[each.dataset.label]);
  byId("language").value = state.language;
  kept.set("language", state.language);
  fillTargets();
  if (state.info) {
    fillMethods();
    buildLayers();
    if (state.maps) showMaps(state.maps);
  }
  openParts();
  showUnit(null);
  if (state.unit) askUnit();
  if (state.trace) showTrace(state.trace);
}

function dress(theme) {
  const dark = theme === "dark" || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").value = theme;
  kept.set("theme", theme);
}

// --- which network ------------------------------------------------------------------------------

function fillTargets() {
  const options = state.targets.map((each, index) => make("option", { value: index, text: name(each) }));
  byId("first").replaceChildren(...options);
  byId("second").replaceChildren(
    make("option", { value: "", text: state.words.none }),
    ...state.targets.map((each, index) => make("option", { value: index, text: name(each) })),
  );
  byId("first").value = String(Math.max(0, state.targets.indexOf(state.first)));
  byId("second").value = state.second ? String(state.targets.indexOf(state.second)) : "";
}

async function choose(target) {
  state.first = target;
  state.isReady = false;
  state.info = null;
  state.maps = null;
  state.seen = null;
  state.unit = null;
  state.overlay = null;
  state.trace = null;
  troubles.clear();
  say("");
  state.view?.stop();
  state.view = null;
  showNothing();
  forgetOverlay();
  forgetSeen();
  kept.set("model", target.model);
  byId("trace").hidden = true;
  const found = await api.layers(target);
  if (state.first !== target) return;
  state.info = found;
  state.isReady = true;
  if (found) lookable(found);
  else plain();
  openParts();
  showUnit(null);
  if (!pad.isEmpty) changed(performance.now());
}

// A network of which only the answer can be had: whatever size and colour, the server sees to it.
function plain() {
  if (pad.cells) pad.clear(false);
  pad.cells = null;
  byId("colour-label").hidden = false;
  pad.colour = byId("colour").value;
  byId("centre").checked = false;
}

// The parts that need to know of layers, closed where nothing is known.
function openParts() {
  const isBlind = state.isReady && !state.info;
  for (const each of document.querySelectorAll("#explain :is(select, button, input)")) each.disabled = isBlind;
  byId("centre").disabled = isBlind;
  for (const each of ["unit", "maps"]) byId(each).hidden = isBlind;
  if (isBlind) {
    byId("trace-section").hidden = true;
    byId("overlay-text").textContent = state.words.noLayers;
  } else if (state.info) {
    fillLayerChoice();
  }
}

function lookable(found) {
  const [h, w, c] = found.input_shape;
  if (!pad.isEmpty && (h <= 16) !== Boolean(pad.cells)) pad.clear(false);
  byId("colour-label").hidden = c === 1;
  if (c === 1) { pad.colour = "#ffffff"; }
  byId("centre").checked = Boolean(found.framing);
  // On a field of nine pixels the pen fills whole ones.
  pad.cells = h <= 16 && w <= 16 ? [h, w] : null;
  // An explanation of a large network costs more than a stroke may wait for.
  byId("live").checked = h <= 64;
  fillMethods();
  buildLayers();
  const steps = found.layers;
  const isChain = steps.every((each) => each.parents.length < 2);
  const values = steps.reduce((total, each) => total + size(each.shape), 0);
  byId("trace-section").hidden = !isChain || values > 20_000;
}

async function chooseSecond(value) {
  const target = value === "" ? null : state.targets[value];
  state.second = null;
  byId("answer-second").hidden = !target;
  byId("answer-second").replaceChildren();
  if (!target) return;
  const found = await api.layers(target);
  state.secondInfo = found;
  state.second = target;
  byId("second").value = value;
  if (!pad.isEmpty) changed(performance.now());
}

function fillMethods() {
  const { words, info } = state;
  const offered = OVERLAYS.map((each) => info.methods.find((method) => method.name === each)).filter(Boolean);
  const before = byId("method").value;
  byId("method").replaceChildren(...offered.map((method) => make("option", {
    value: method.name, disabled: Boolean(method.problem), title: method.problem,
    text: method.problem ? fill(words.unavailable, { title: method.title }) : method.title,
  })));
  if (before) byId("method").value = before;
  const target = byId("target").value;
  byId("target").replaceChildren(
    make("option", { value: "", text: words.best }),
    ...info.labels.map((label) => make("option", { value: label, text: label })),
  );
  byId("target").value = info.labels.includes(target) ? target : "";
  fillLayerChoice();
}

function fillLayerChoice() {
  if (!state.info) return;
  const method = state.info.methods.find((each) => each.name === byId("method").value);
  const fit = state.info.layers.filter((layer) => layer.methods.includes(method?.name));
  byId("layer").replaceChildren(
    make("option", { value: "", text: state.words.own }),
    ...fit.map((layer) => make("option", { value: layer.name, text: layer.name })),
  );
  byId("layer").disabled = !method?.takes_layer;
}

// --- asking while drawing -----------------------------------------------------------------------

// What a network is sent: of the size it needs, and a drawing framed as what it learned.
function picture(info = state.info) {
  if (!info) return pad.picture();
  const [h, , c] = info.input_shape;
  const framing = info.framing ?? (c === 1 && h >= 20 ? MNIST : null);
  return pad.picture({ size: info.image_size, framing: byId("centre").checked ? framing : null });
}


// Two loops, so that what takes longer to look at never holds up the answer.
function changed(when) {
  say("", "empty");
  // The first stroke that has no answer yet is what the wait is counted from.
  state.dirtyFrom ??= when;
  state.isStale = true;
  document.querySelector(".answers").dataset.stale = "";
  if (!state.isAsking) askAnswers();
  if (!state.isLooking) lookInside();
}

function forgive() {
  say("", "page");
  say("", "answer");
  if (state.dirtyFrom === null) delete document.querySelector(".answers").dataset.stale;
}

async function askAnswers() {
  state.isAsking = true;
  try {
    while (state.dirtyFrom !== null && state.isReady) {
      const from = state.dirtyFrom;
      state.dirtyFrom = null;
      if (pad.isEmpty) { showNothing(); forgive(); continue; }
      const { first, second, info, secondInfo } = state;
      await Promise.all([
        answer(first, await picture(info), "first", from),
        second ? answer(second, await picture(secondInfo), "second", from) : null,
      ]);
      forgive();
    }
  } catch (error) {
    tell(error, "answer");
  } finally {
    state.isAsking = false;
    if (state.dirtyFrom !== null && state.isReady) setTimeout(() => { if (!state.isAsking) askAnswers(); }, 300);
  }
}

async function lookInside() {
  state.isLooking = true;
  try {
    while (state.isStale && state.info) {
      state.isStale = false;
      if (pad.isEmpty) {
        state.seen = null;
        forgetSeen();
        forgetOverlay();
        for (const each of ["overlay", "unit", "trace"]) say("", each);
        continue;
      }
      const blob = await picture();
      await see(state.first, blob);
      if (state.unit && !state.isStale) await askUnit(blob);
      if (!byId("live").checked) forgetOverlay();
      else if (!state.isStale) await runOverlay(blob);
      if (state.trace && !state.view?.timer && !state.isStale) await runTrace(blob);
    }
    say("", "look");
  } catch (error) {
    tell(error, "look");
  } finally {
    state.isLooking = false;
    // What was drawn while this one failed is looked at, too.
    if (state.isStale && state.info) setTimeout(() => { if (!state.isLooking) lookInside(); }, 300);
  }
}

async function answer(target, blob, which, from) {
  const found = await api.classify(target, blob);
  if (target !== state[which]) return;
  const server = (found.timings.decode_s + found.timings.queue_s + found.timings.execute_s) * 1000;
  showAnswer(which, target, found, performance.now() - from, server);
}

async function see(target, blob) {
  const total = state.info.layers.reduce((sum, layer) => sum + size(layer.shape), 0);
  const [seen, maps] = await Promise.all([
    api.explain(target, blob, { method: "input" }),
    total <= MOST_LIVE_VALUES ? api.explain(target, blob, { method: "feature_maps" }) : openMaps(target, blob),
  ]);
  if (target !== state.first) return;
  state.seen = seen;
  byId("looks").hidden = false;
  const [low, high] = drawInput(byId("seen"), seen.arrays.input, 160, isBgr());
  byId("seen-text").textContent = fill(state.words.range, {
    shape: seen.arrays.input.shape.join("×"), low: number(low, 2), high: number(high, 2),
  });
  state.maps = maps.arrays;
  showMaps(maps.arrays);
}

async function openMaps(target, blob) {
  const open = [...document.querySelectorAll("details.layer[open]")].map((each) => each.dataset.layer);
  const found = await Promise.all(open.map((layer) => api.explain(target, blob, { method: "feature_maps", layer })));
  return { arrays: Object.assign({}, ...found.map((each) => each.arrays)) };
}

// --- the answer ---------------------------------------------------------------------------------

let spokenAt = -Infinity;
let speaking = null;

// A screen reader hears one answer a second, not one a stroke; the last is never left out.
function announce(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    spokenAt = performance.now();
    byId("spoken").textContent = text;
  }, Math.max(0, spokenAt + 1000 - performance.now()));
}

function showAnswer(which, target, found, ms, server) {
  const { words } = state;
  const place = byId(`answer-${which}`);
  place.hidden = false;
  const [scores] = found.results;
  let table = place.querySelector("table");
  if (!table || table.rows.length !== scores.length || place.dataset.target !== name(target)) {
    table = make("table", { class: "top" });
    for (const _ of scores) table.append(make("tr", {}, make("td"), make("td", {}, make("span", { class: "share" })), make("td")));
    place.replaceChildren(make("h3"), make("p", { class: "best" }), table, make("p", { class: "faint small" }));
    place.dataset.target = name(target);
  }
  const [heading, best, , foot] = place.children;
  heading.textContent = `${target.model} · ${fill(words.version, { version: found.version })}`;
  best.textContent = scores[0].label;
  scores.forEach((score, row) => {
    const [label, bar, value] = table.rows[row].cells;
    label.textContent = score.label;
    bar.firstChild.style.width = `${score.probability * 100}%`;
    value.textContent = `${(score.probability * 100).toFixed(1)} %`;
  });
  foot.textContent = fill(words.latency, { ms: ms.toFixed(0), server: server.toFixed(1) });
  place.dataset.ms = ms.toFixed(1);
  place.dataset.label = scores[0].label;
  if (which === "first") {
    announce(fill(words.spoken, {
      label: scores[0].label, percent: Math.round(scores[0].probability * 100),
    }));
  }
}

function showNothing() {
  for (const which of ["first", "second"]) {
    byId(`answer-${which}`).replaceChildren();
    delete byId(`answer-${which}`).dataset.label;
  }
  clearTimeout(speaking);
  byId("spoken").textContent = "";
}

// --- every layer --------------------------------------------------------------------------------

function buildLayers() {
  const { info, words } = state;
  const total = info.layers.reduce((sum, layer) => sum + size(layer.shape), 0);
  watcher.disconnect();
  inView.clear();
  byId("layers").replaceChildren(...info.layers.map((layer) => {
    const body = make("div", { class: layer.shape.length === 3 ? "strip" : "units" });
    const count = layer.shape.at(-1);
    const more = count > MOST_MAPS && layer.shape.length === 3
      ? ` · ${fill(words.moreMaps, { shown: MOST_MAPS, count })}` : "";
    const details = make("details", { class: "layer", "data-layer": layer.name, open: total <= MOST_LIVE_VALUES },
      make("summary", {}, make("strong", { text: layer.name }),
        ` ${layer.kind} `, make("span", { class: "faint", text: layer.shape.join("×") + more })),
      body);
    details.addEventListener("toggle", async () => {
      if (!details.open || pad.isEmpty || state.maps?.[layer.name]) return;
      try {
        const found = await api.explain(state.first, await picture(), { method: "feature_maps", layer: layer.name });
        state.maps = { ...state.maps, ...found.arrays };
        showMaps(found.arrays);
      } catch (error) { tell(error, "look"); }
    });
    return details;
  }));
  for (const each of document.querySelectorAll("details.layer")) watcher.observe(each);
}

// What nobody sees is brought up to date when it comes into view.
const inView = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const { layer } = target.dataset;
    if (!isIntersecting) { inView.delete(layer); continue; }
    inView.add(layer);
    if (state.maps?.[layer]) showMaps({ [layer]: state.maps[layer] });
  }
}, { rootMargin: "100px" });

function showMaps(maps) {
  for (const [layer, array] of Object.entries(maps)) {
    const body = document.querySelector(`details[data-layer="${CSS.escape(layer)}"] > div`);
    if (!body || (body.children.length && !inView.has(layer))) continue;
    if (array.shape.length === 3) showStrip(body, layer, array);
    else showUnits(body, layer, array);
  }
}

function showStrip(body, layer, array) {
  const count = Math.min(MOST_MAPS, array.shape[2]);
  const top = most(array.data);
  if (body.children.length !== count) {
    body.replaceChildren(...Array.from({ length: count }, (_, channel) => make("button", {
      type: "button", "aria-label": fill(state.words.ofMap, { name: layer, map: channel, count: array.shape[2] }),
      onclick: (event) => pick(layer, channel, event),
    }, make("canvas", { "aria-hidden": "true" }))));
  }
  for (let channel = 0; channel < count; channel++) {
    drawSigned(body.children[channel].firstChild, array, channel, top, 64);
  }
}

function showUnits(body, layer, array) {
  const top = most(array.data);
  const few = array.shape[0] <= 32;
  const count = Math.min(1024, array.shape[0]);
  const labels = array.shape[0] === state.info.labels.length ? state.info.labels : null;
  if (body.children.length !== count) {
    body.replaceChildren(...Array.from({ length: count }, (_, unit) => make("button", {
      type: "button", tabindex: few || unit === 0 ? 0 : -1, onclick: () => select(layer, [unit]),
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
        const next = step && body.children[unit + step];
        if (next) { next.focus(); event.preventDefault(); }
      },
    })));
  }
  for (let unit = 0; unit < count; unit++) {
    const button = body.children[unit];
    const text = `${labels?.[unit] ?? unit}: ${number(array.data[unit], 2)}`;
    button.setAttribute("aria-label", `${layer} ${text}`);
    button.title = text;
    if (few) button.textContent = text;
    button.style.backgroundColor = `rgb(${shade(array.data[unit], top, 0.6)})`;
  }
}

// --- one unit -----------------------------------------------------------------------------------

// A click on a map picks the place under it; a key press picks the map's strongest place.
function pick(layer, channel, event) {
  const array = state.maps?.[layer];
  if (!array) return;
  const [h, w, c] = array.shape;
  const canvas = event.currentTarget.firstChild;
  if (event.detail > 0 && event.target === canvas) {
    const box = canvas.getBoundingClientRect();
    const row = Math.min(h - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * h)));
    const column = Math.min(w - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * w)));
    select(layer, [row, column, channel]);
    return;
  }
  let best = 0;
  for (let at = 1; at < h * w; at++) {
    if (array.data[at * c + channel] > array.data[best * c + channel]) best = at;
  }
  select(layer, [Math.floor(best / w), best % w, channel]);
}

function select(layer, place) {
  state.unit = { layer, place };
  askUnit();
  byId("unit").scrollIntoView({ block: "nearest" });
}

async function askUnit(blob = null) {
  const { unit } = state;
  if (!unit || !state.info || pad.isEmpty) return;
  const [row, column, channel] = unit.place.length === 3 ? unit.place : [null, null, unit.place[0]];
  try {
    if (unit.layer === state.info.layers[0].name) { showUnit(null); return; }
    const found = await api.explain(state.first, blob ?? await picture(), {
      method: "unit", layer: unit.layer, row, column, channel,
    });
    if (state.unit === unit) showUnit(found);
    say("", "unit");
  } catch (error) { tell(error, "unit"); }
}

function showUnit(found) {
  const { words } = state;
  byId("unit-place").hidden = !found;
  if (!found) {
    byId("unit-line").textContent = words.chooseUnit;
    byId("unit-work").replaceChildren();
    return;
  }
  const { facts, arrays, layer } = found;
  const shape = state.info.layers.find((each) => each.name === layer).shape;
  byId("unit-layer").textContent = layer;
  const isPlace = facts.place.length === 3;
  for (const each of document.querySelectorAll(".unit-where")) each.hidden = !isPlace;
  byId("unit-channel").max = shape.at(-1) - 1;
  byId("unit-channel").value = facts.place.at(-1);
  if (isPlace) {
    byId("unit-row").max = shape[0] - 1;
    byId("unit-column").max = shape[1] - 1;
    [byId("unit-row").value, byId("unit-column").value] = facts.place;
  }
  const values = { ...facts, before: number(facts.before), value: number(facts.value), bias: number(facts.bias) };
  const count = arrays.patch.data.reduce((total, each) => total + (Number.isNaN(each) ? 0 : 1), 0);
  if (arrays.products) {
    const sum = arrays.products.data.reduce((a, b) => a + b, 0);
    byId("unit-line").textContent = fill(words.conv, {
      ...values, count, sum: number(sum),
      scaled: facts.scale === 1 ? "" : fill(words.scaled, { scale: number(facts.scale) }),
    });
  } else if (["max", "mean", "sum"].includes(facts.operation)) {
    byId("unit-line").textContent = fill(words.pool, { ...values, count });
  } else {
    const what = facts.operation === "activation" ? facts.activation : facts.operation;
    byId("unit-line").textContent = fill(words.copyOf, { ...values, operation: what });
  }
  byId("unit-work").replaceChildren(...work(arrays, facts));
}

function work(arrays, facts) {
  const { words } = state;
  const { patch, kernel, products } = arrays;
  const parts = [];
  if (patch.shape.length === 1) {
    if (!products) return patch.shape[0] <= 16 ? [grid([Array.from(patch.data)], words.patch)] : [];
    return [votes(arrays)];
  }
  const c = patch.shape[2] ?? 1;
  // Of many channels the one that says most is shown.
  let channel = 0;
  if (products && c > 1) {
    const sums = new Array(c).fill(0);
    products.data.forEach((value, at) => { sums[at % c] += value; });
    channel = sums.reduce((best, value, at) => (Math.abs(value) > Math.abs(sums[best]) ? at : best), 0);
  }
  const plane = (array) => Array.from({ length: patch.shape[0] }, (_, row) =>
    Array.from({ length: patch.shape[1] }, (_, column) => array.data[(row * patch.shape[1] + column) * c + channel]));
  const of = c > 1 ? ` (${fill(words.ofMap, { name: facts.sources[0], map: channel, count: c })})` : "";
  if (patch.shape[0] > 15) return [make("p", { class: "faint", text: `${patch.shape.join("×")}` })];
  parts.push(grid(plane(patch), (products ? words.patch : words.window) + of));
  if (products) {
    parts.push(make("span", { class: "sign", text: "×" }), grid(plane(kernel), words.kernel),
      make("span", { class: "sign", text: "=" }), grid(plane(products), words.products));
  }
  return parts;
}

function grid(rows, caption) {
  const top = most(rows.flat().filter((value) => !Number.isNaN(value)));
  const table = make("table", { class: "numbers" }, make("caption", { text: caption }));
  for (const row of rows) {
    const line = make("tr");
    for (const value of row) {
      const cell = make("td", { text: number(value, 2) });
      if (!Number.isNaN(value)) cell.style.backgroundColor = `rgb(${shade(value, top, 0.5)})`;
      line.append(cell);
    }
    table.append(line);
  }
  return table;
}

function votes({ patch, kernel, products }) {
  const order = Array.from(products.data.keys())
    .sort((a, b) => Math.abs(products.data[b]) - Math.abs(products.data[a])).slice(0, 12);
  const top = Math.abs(products.data[order[0]]) || 1;
  const table = make("table", { class: "votes" });
  for (const at of order) {
    const bar = make("span", { class: products.data[at] < 0 ? "bar minus" : "bar" });
    bar.style.width = `${(Math.abs(products.data[at]) / top) * 100}px`;
    table.append(make("tr", {}, make("td", { text: String(at) }),
      make("td", { text: `${number(patch.data[at], 3)} × ${number(kernel.data[at], 3)}` }),
      make("td", { text: number(products.data[at]) }), make("td", {}, bar)));
  }
  return table;
}

// --- overlays -----------------------------------------------------------------------------------

async function runOverlay(blob = null) {
  if (!state.info) return;
  if (pad.isEmpty) { byId("overlay-text").textContent = state.words.empty; return; }
  const method = byId("method").value;
  const wait = setTimeout(() => { byId("overlay-text").textContent = state.words.waiting; }, 800);
  byId("run").disabled = true;
  try {
    const [h] = state.info.input_shape;
    const options = method === "occlusion" ? { stride: Math.max(1, Math.ceil(h / 28)) } : {};
    const found = await api.explain(state.first, blob ?? await picture(), {
      method, target: byId("target").value, layer: byId("layer").disabled ? "" : byId("layer").value, ...options,
    });
    state.overlay = found;
    showOverlay();
    say("", "overlay");
  } catch (error) {
    byId("overlay-text").textContent = "";
    tell(error, "overlay");
  } finally {
    clearTimeout(wait);
    byId("run").disabled = !state.info;
  }
}

function forgetOverlay() {
  state.overlay = null;
  byId("overlay-text").textContent = state.isReady && !state.info ? state.words.noLayers : "";
  clear(byId("overlay"));
}

function forgetSeen() {
  byId("looks").hidden = true;
  byId("seen-text").textContent = "";
}

function clear(canvas) {
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}

function showOverlay() {
  const { overlay, seen, words } = state;
  if (!overlay || !seen) return;
  let map = overlay.arrays[SHOWN[overlay.method]];
  const isSigned = map.shape.length === 3;
  if (isSigned) {
    const [h, w, c] = map.shape;
    const data = new Float32Array(h * w);
    map.data.forEach((value, at) => { data[Math.floor(at / c)] += value; });
    map = { shape: [h, w], data };
  }
  drawOverlay(byId("overlay"), seen.arrays.pixels, map, byId("opacity").value / 100, isSigned, isBgr());
  const layer = overlay.layer ? ` · ${overlay.layer}` : "";
  const text = overlay.method === "occlusion"
    ? fill(words.costs, { label: overlay.label, p: number(overlay.facts.probability, 3) })
    : `${overlay.label}${layer}: ${fill(words.covers, { value: number(most(map.data), 4) })}`;
  byId("overlay-text").textContent = text;
}

// --- the trace ----------------------------------------------------------------------------------

async function runTrace(blob = null) {
  if (!state.info) return;
  if (pad.isEmpty) { say(state.words.empty, "empty"); return; }
  try {
    const found = await api.explain(state.first, blob ?? await picture(), { method: "trace" });
    state.trace = { ...found.facts, arrays: found.arrays };
    showTrace(state.trace);
    say("", "trace");
  } catch (error) { tell(error, "trace"); }
}

function showTrace(trace) {
  byId("trace").hidden = false;
  const { index = 0, chosen } = state.view ?? {};
  state.view?.stop();
  state.view = new TraceView(byId("trace"), trace, TRACE_WORDS[state.language], { index, chosen });
}

// --- the camera ---------------------------------------------------------------------------------

let stream = null;

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (error) {
    say(fill(state.words.noCamera, { why: error.message }));
    return;
  }
  byId("video").srcObject = stream;
  await byId("video").play();
  watching(true);
}

function watching(isOn) {
  byId("video").hidden = !isOn;
  byId("pad").hidden = isOn;
  byId("shoot").hidden = !isOn;
  byId("camera").hidden = isOn;
}

function shoot() {
  pad.show(byId("video"));
  for (const track of stream.getTracks()) track.stop();
  watching(false);
}

// --- putting it together ------------------------------------------------------------------------

const pad = new Pad(byId("pad"), changed);

async function take(file) {
  if (!file) return;
  try {
    await pad.open(file);
    say("", "page");
  } catch {
    say(state.words.notFound);
  }
}

function wire() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  const press = (isErasing) => {
    pad.isErasing = isErasing;
    byId("pen").setAttribute("aria-pressed", String(!isErasing));
    byId("eraser").setAttribute("aria-pressed", String(isErasing));
  };
  on("pen", "click", () => press(false));
  on("eraser", "click", () => press(true));
  on("clear", "click", () => pad.clear());
  on("invert", "click", () => pad.invert());
  on("width", "input", (event) => { pad.width = Number(event.target.value); });
  on("colour", "input", (event) => { pad.colour = event.target.value; });
  on("centre", "change", () => { if (!pad.isEmpty) changed(performance.now()); });
  pad.onpen = (isDown) => { byId("spoken").textContent = isDown ? state.words.pendown : state.words.penup; };
  on("file", "change", (event) => { take(event.target.files[0]); event.target.value = ""; });
  const drop = byId("drop");
  for (const each of ["dragenter", "dragover"]) {
    drop.addEventListener(each, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const each of ["dragleave", "drop"]) drop.addEventListener(each, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  document.addEventListener("paste", (event) => {
    const item = [...(event.clipboardData?.items ?? [])].find((each) => each.type.startsWith("image/"));
    if (item) { event.preventDefault(); take(item.getAsFile()); }
  });
  byId("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  on("camera", "click", openCamera);
  on("shoot", "click", shoot);
  on("first", "change", (event) => {
    const target = state.targets[event.target.value];
    const newest = state.targets.find((each) => each.model === target.model);
    // A version is pinned only by who chose an older one.
    remember({ model: target.model, version: target === newest ? null : target.version });
    choose(target).catch(tell);
  });
  on("second", "change", (event) => {
    const target = state.targets[event.target.value];
    remember({ beside: target ? name(target) : null });
    chooseSecond(event.target.value).catch(tell);
  });
  on("language", "change", (event) => { remember({ language: null }); speak(event.target.value); });
  on("theme", "change", (event) => dress(event.target.value));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dress(kept.get("theme") ?? "auto"));
  on("method", "change", fillLayerChoice);
  on("run", "click", () => runOverlay());
  on("opacity", "input", showOverlay);
  on("trace-run", "click", () => runTrace());
  for (const each of ["unit-channel", "unit-row", "unit-column"]) {
    on(each, "change", () => {
      if (!state.unit) return;
      const channel = Number(byId("unit-channel").value);
      const place = state.unit.place.length === 3
        ? [Number(byId("unit-row").value), Number(byId("unit-column").value), channel] : [channel];
      select(state.unit.layer, place);
    });
  }
}

// What is chosen stands in the address: it outlives a reload, and can be sent to somebody.
function remember(chosen) {
  const url = new URL(location.href);
  for (const [key, value] of Object.entries(chosen)) {
    if (value === null) url.searchParams.delete(key);
    else url.searchParams.set(key, value);
  }
  history.replaceState(null, "", url);
}

async function begin() {
  wire();
  dress(kept.get("theme") ?? "auto");
  const asked = new URLSearchParams(location.search);
  speak(asked.get("language") ?? kept.get("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
  try {
    state.targets = await api.served();
    if (!state.targets.length) { say(state.words.noModels); return; }
    const wanted = asked.get("model") ?? kept.get("model");
    const versions = state.targets.filter((each) => each.model === wanted);
    state.first = versions.find((each) => String(each.version) === asked.get("version"))
      ?? versions[0] ?? state.targets[0];
    fillTargets();
    await choose(state.first);
    const beside = state.targets.findIndex((each) => name(each) === asked.get("beside"));
    if (beside >= 0) await chooseSecond(String(beside));
    document.documentElement.dataset.ready = "true";
  } catch (error) { tell(error); }
}

begin();
