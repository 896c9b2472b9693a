// One image through every operation of a small network, animated, with the real numbers.
// It needs nothing else: the page that `convzoo explain --method trace` writes carries it inline,
// the playground imports it.

const CELL_LEAST_FOR_NUMBERS = 30;

export const TRACE_WORDS = {
  en: {
    step: "Step {n} of {of}", back: "Back", next: "Next", play: "Play", pause: "Pause",
    map: "Map", unit: "Unit", patch: "Patch", kernel: "Kernel", products: "Products",
    window: "Window", code: "Code of the class", image: "The image as the network takes it.",
    convolution: "{count} products sum to {sum}{scaled}, bias {bias}: {before}{after}",
    dense: "{count} votes sum to {sum}, bias {bias}: {before}{after}",
    divided: ", divided by {by}", after: "; {activation} makes it {value}",
    max: "The largest of {count} numbers is {before}{after}",
    mean: "The mean of {count} numbers is {before}{after}",
    sum: "The sum of {count} numbers, times {scale}, plus {bias}, is {before}{after}",
    distance: "The squared differences to the code of the class sum to {before}{after}",
    copy: "The same numbers in a row: {value}", activation: "{activation} makes {value} of {before}",
    place: "row {row}, column {column}, map {map}", votes: "Votes, largest first",
    says: "It says {label} with probability {probability}", output: "Output", input: "Input",
    speed: "Speed", choose: "Choose a place on the output to see its numbers.",
  },
  zh: {
    step: "第 {n} 步，共 {of} 步", back: "上一步", next: "下一步", play: "播放", pause: "暂停",
    map: "特征图", unit: "单元", patch: "图块", kernel: "卷积核", products: "乘积",
    window: "窗口", code: "类别编码", image: "网络所接收的图像。",
    convolution: "{count} 个乘积之和为 {sum}{scaled}，加偏置 {bias}：{before}{after}",
    dense: "{count} 票之和为 {sum}，加偏置 {bias}：{before}{after}",
    divided: "，除以 {by}", after: "；经 {activation} 得 {value}",
    max: "{count} 个数中最大的是 {before}{after}",
    mean: "{count} 个数的平均是 {before}{after}",
    sum: "{count} 个数之和乘以 {scale}，加 {bias}，得 {before}{after}",
    distance: "与类别编码之差的平方和为 {before}{after}",
    copy: "同样的数排成一列：{value}", activation: "{activation} 把 {before} 变为 {value}",
    place: "第 {row} 行，第 {column} 列，特征图 {map}", votes: "票数，由大到小",
    says: "结果是 {label}，概率 {probability}", output: "输出", input: "输入",
    speed: "速度", choose: "在输出上选一处，查看其数值。",
  },
};

export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const number = (value, digits = 3) =>
  value === null || value === undefined || Number.isNaN(value) ? "" : value.toFixed(digits);

// Blue below zero, white at zero, red above; the same ends as in the written pictures.
export function shade(value, top, strength = 1) {
  const share = Math.max(-1, Math.min(1, value / (top || 1)));
  const end = share < 0 ? [33, 102, 172] : [178, 24, 43];
  return end.map((each) => Math.round(255 + (each - 255) * Math.abs(share) * strength));
}

function largest(values) {
  let top = 0;
  for (const value of values) if (Math.abs(value) > top) top = Math.abs(value);
  return top || 1;
}

// --- the arithmetic of one unit, from the arrays -------------------------------------------------

const pair = (value) => (Array.isArray(value) ? value : [value, value]);

function windowOf(step, inputShape) {
  const config = step.config;
  const size = step.kind === "Subsampling" ? [2, 2] : pair(config.kernel_size ?? config.pool_size);
  const strides = step.kind === "Subsampling" ? [2, 2] : pair(config.strides ?? (config.pool_size ? size : 1));
  const before = [0, 1].map((axis) => {
    if (config.padding !== "same") return 0;
    const reach = (Math.ceil(inputShape[axis] / strides[axis]) - 1) * strides[axis];
    return Math.floor(Math.max(0, reach + size[axis] - inputShape[axis]) / 2);
  });
  return { size, strides, before };
}

export function valueAt(array, row, column, channel) {
  const [h, w, c] = array.shape;
  if (row < 0 || column < 0 || row >= h || column >= w) return null;
  return array.data[(row * w + column) * c + channel];
}

function denseKernel(step, arrays) {
  // LeNet-5's third layer has weights only for the connections of its table.
  const kernel = arrays[`kernel:${step.layer}`];
  if (step.kind !== "TableConv2D") return kernel;
  const table = step.config.table;
  const side = pair(step.config.kernel_size)[0];
  const inputs = 1 + Math.max(...table.flat());
  const shape = [side, side, inputs, table.length];
  const data = new Float32Array(side * side * inputs * table.length);
  let edge = 0;
  const edges = kernel.shape[1];
  table.forEach((row, target) => {
    for (const source of row) {
      for (let place = 0; place < side * side; place++) {
        data[(place * inputs + source) * table.length + target] = kernel.data[place * edges + edge];
      }
      edge++;
    }
  });
  return { shape, data };
}

const CONVOLUTIONS = ["Conv2D", "NormalizedTemplateConv2D", "TableConv2D"];
const POOLS = ["MaxPooling2D", "CeilMaxPooling2D", "AveragePooling2D", "SumPooling2D", "Subsampling"];

export function unitOf(trace, index, place) {
  const step = trace.steps[index];
  const output = trace.arrays[`map:${step.layer}`];
  const input = trace.arrays[`map:${step.parents[0]}`];
  const value = place.length === 3 ? valueAt(output, ...place) : output.data[place[0]];
  const unit = { place, value, activation: step.activation, step, scale: 1, bias: 0 };
  if (CONVOLUTIONS.includes(step.kind)) {
    const [row, column, channel] = place;
    const view = windowOf(step, input.shape);
    const kernel = denseKernel(step, trace.arrays);
    const [kh, kw, kc, filters] = kernel.shape;
    const top = row * view.strides[0] - view.before[0];
    const left = column * view.strides[1] - view.before[1];
    const patch = [], weights = [], products = [];
    let sum = 0;
    for (let c = 0; c < kc; c++) {
      const p = [], k = [], q = [];
      for (let i = 0; i < kh; i++) {
        p.push([]); k.push([]); q.push([]);
        for (let j = 0; j < kw; j++) {
          const seen = valueAt(input, top + i, left + j, c) ?? 0;
          const weight = kernel.data[((i * kw + j) * kc + c) * filters + channel];
          p[i].push(seen); k[i].push(weight); q[i].push(seen * weight);
          sum += seen * weight;
        }
      }
      patch.push(p); weights.push(k); products.push(q);
    }
    const bias = trace.arrays[`bias:${step.layer}`]?.data[channel] ?? 0;
    const scale = step.kind === "NormalizedTemplateConv2D" ? 1 / (kh * kw * kc) : 1;
    return {
      ...unit, operation: "convolution", patch, kernel: weights, products, sum, bias, scale,
      before: sum * scale + bias, count: kh * kw * kc,
      box: { top, left, bottom: top + kh, right: left + kw },
    };
  }
  if (POOLS.includes(step.kind)) {
    const [row, column, channel] = place;
    const view = windowOf(step, input.shape);
    const top = row * view.strides[0] - view.before[0];
    const left = column * view.strides[1] - view.before[1];
    const patch = [];
    const values = [];
    for (let i = 0; i < view.size[0]; i++) {
      patch.push([]);
      for (let j = 0; j < view.size[1]; j++) {
        const seen = valueAt(input, top + i, left + j, channel);
        patch[i].push(seen);
        if (seen !== null) values.push(seen);
      }
    }
    const total = values.reduce((a, b) => a + b, 0);
    const box = { top, left, bottom: top + view.size[0], right: left + view.size[1] };
    const made = { ...unit, patch: [patch], count: values.length, sum: total, box, channel };
    if (step.kind.includes("Max")) return { ...made, operation: "max", before: Math.max(...values) };
    if (step.kind === "Subsampling") {
      const scale = trace.arrays[`coefficient:${step.layer}`].data[channel];
      const bias = trace.arrays[`bias:${step.layer}`].data[channel];
      return { ...made, operation: "sum", scale, bias, before: total * scale + bias };
    }
    if (step.kind === "SumPooling2D") return { ...made, operation: "sum", before: total };
    return { ...made, operation: "mean", before: total / values.length };
  }
  if (step.kind === "Dense") {
    const kernel = trace.arrays[`kernel:${step.layer}`];
    const [inputs, outputs] = kernel.shape;
    const bias = trace.arrays[`bias:${step.layer}`]?.data[place[0]] ?? 0;
    const votes = Array.from({ length: inputs }, (_, from) => ({
      from, value: input.data[from], weight: kernel.data[from * outputs + place[0]],
      product: input.data[from] * kernel.data[from * outputs + place[0]],
    }));
    const sum = votes.reduce((total, vote) => total + vote.product, 0);
    return { ...unit, operation: "dense", votes, sum, bias, before: sum + bias, count: inputs };
  }
  if (step.kind === "EuclideanRBF") {
    const code = trace.arrays[`code:${step.layer}`];
    const size = code.shape[1];
    const votes = Array.from({ length: size }, (_, from) => {
      const weight = code.data[place[0] * size + from];
      return { from, value: input.data[from], weight, product: -((input.data[from] - weight) ** 2) };
    });
    const before = votes.reduce((total, vote) => total + vote.product, 0);
    return { ...unit, operation: "distance", votes, before, count: size };
  }
  if (["Activation", "ReLU", "LeakyReLU"].includes(step.kind)) {
    const before = place.length === 3 ? valueAt(input, ...place) : input.data[place[0]];
    return { ...unit, operation: "activation", before };
  }
  return { ...unit, operation: "copy", before: value };
}

export function sentence(unit, words) {
  const after = unit.activation !== "linear" && unit.operation !== "activation"
    ? fill(words.after, { activation: unit.activation, value: number(unit.value, 4) }) : "";
  const scaled = unit.scale !== 1 && unit.operation === "convolution"
    ? fill(words.divided, { by: Math.round(1 / unit.scale) }) : "";
  return fill(words[unit.operation], {
    count: unit.count, sum: number(unit.sum, 4), scaled, bias: number(unit.bias, 4), after,
    scale: number(unit.scale, 4), before: number(unit.before, 4), value: number(unit.value, 4),
    activation: unit.activation,
  });
}

// --- drawing ------------------------------------------------------------------------------------

function drawMap(canvas, array, channel, { side = 220, box = null, cell = null, until = null, numbers = true } = {}) {
  const [h, w] = array.shape.length === 3 ? array.shape : [1, array.shape[0]];
  const size = Math.max(2, Math.floor(side / Math.max(h, w)));
  const ratio = 2;
  canvas.width = w * size * ratio;
  canvas.height = h * size * ratio;
  canvas.style.width = `${w * size}px`;
  canvas.style.height = `${h * size}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const top = largest(array.data);
  context.font = `${Math.min(13, size / 3)}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (let row = 0; row < h; row++) {
    for (let column = 0; column < w; column++) {
      const hidden = until !== null && row * w + column > until;
      const value = array.shape.length === 3 ? valueAt(array, row, column, channel) : array.data[column];
      const [r, g, b] = hidden ? [238, 240, 243] : shade(value, top, size >= CELL_LEAST_FOR_NUMBERS ? 0.7 : 1);
      context.fillStyle = `rgb(${r},${g},${b})`;
      context.fillRect(column * size, row * size, size - (size > 8 ? 1 : 0), size - (size > 8 ? 1 : 0));
      if (!hidden && numbers && size >= CELL_LEAST_FOR_NUMBERS) {
        context.fillStyle = "#111";
        context.fillText(number(value, 2), column * size + size / 2, row * size + size / 2);
      }
    }
  }
  context.lineWidth = 2.5;
  if (box) {
    context.strokeStyle = "#0a7d32";
    context.strokeRect(box.left * size + 1, box.top * size + 1,
      (box.right - box.left) * size - 2, (box.bottom - box.top) * size - 2);
  }
  if (cell) {
    context.strokeStyle = "#0a7d32";
    context.strokeRect(cell[1] * size + 1, cell[0] * size + 1, size - 2, size - 2);
  }
  return size;
}

function table(grid, caption) {
  const top = largest(grid.flat().map((value) => value ?? 0));
  const made = element("table", { class: "numbers" }, element("caption", { text: caption }));
  for (const row of grid) {
    const line = element("tr");
    for (const value of row) {
      const cell = element("td", { text: number(value, 2) });
      if (value !== null) cell.style.backgroundColor = `rgb(${shade(value, top, 0.5)})`;
      line.append(cell);
    }
    made.append(line);
  }
  return made;
}

export class TraceView {
  constructor(root, trace, words, { index = 0, chosen = {} } = {}) {
    this.root = root;
    this.trace = trace;
    this.words = words;
    this.index = Math.min(index, trace.steps.length - 1);
    this.chosen = chosen; // the places that the reader chose, by layer
    this.at = null; // how far the scan of the output has come; null when it is not running
    this.timer = null;
    this.build();
    this.show();
  }

  build() {
    const words = this.words;
    this.back = element("button", { type: "button", text: words.back, onclick: () => this.go(this.index - 1) });
    this.play = element("button", { type: "button", class: "primary", text: words.play, onclick: () => this.toggle() });
    this.next = element("button", { type: "button", text: words.next, onclick: () => this.go(this.index + 1) });
    this.title = element("h3", { class: "trace-title" });
    this.counter = element("span", { class: "faint" });
    this.speed = element("input", { type: "range", min: 1, max: 60, value: 12, "aria-label": words.speed });
    this.maps = element("div", { class: "trace-maps" });
    this.work = element("div", { class: "trace-work" });
    this.line = element("p", { class: "trace-line", "aria-live": "polite" });
    this.root.replaceChildren(
      element("div", { class: "trace-bar" }, this.back, this.play, this.next, this.counter,
        element("label", { class: "faint", text: `${words.speed} ` }, this.speed)),
      this.title, this.maps, this.line, this.work,
    );
    this.root.onkeydown = (event) => {
      if (event.target.tagName === "INPUT" || event.target.tagName === "SELECT") return;
      if (event.key === "ArrowRight") { this.go(this.index + 1); event.preventDefault(); }
      if (event.key === "ArrowLeft") { this.go(this.index - 1); event.preventDefault(); }
    };
  }

  go(index) {
    this.stop();
    this.index = Math.max(0, Math.min(this.trace.steps.length - 1, index));
    this.show();
  }

  toggle() {
    if (this.timer) { this.stop(); this.show(); return; }
    if (this.at === null) this.at = 0;
    this.play.textContent = this.words.pause;
    const tick = () => {
      const step = this.trace.steps[this.index];
      const places = step.unit ? this.places(step) : 1;
      if (this.at >= places) {
        if (this.index === this.trace.steps.length - 1) { this.stop(); this.show(); return; }
        this.index++;
        this.at = 0;
      }
      this.show();
      // Maps with many places are swept in about as long as small ones.
      this.at += Math.max(1, Math.floor(places / 60));
      this.timer = setTimeout(tick, 1000 / this.speed.value);
    };
    this.timer = setTimeout(tick, 0);
  }

  places(step) {
    return step.shape.length === 3 ? step.shape[0] * step.shape[1] : Math.min(step.shape[0], 60);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.at = null;
    this.play.textContent = this.words.play;
  }

  place(step) {
    if (this.at === null) return this.chosen?.[step.layer] ?? step.unit.place;
    const channel = (this.chosen?.[step.layer] ?? step.unit.place).at(-1);
    if (step.shape.length === 1) return [Math.min(this.at, step.shape[0] - 1)];
    const flat = Math.min(this.at, this.places(step) - 1);
    return [Math.floor(flat / step.shape[1]), flat % step.shape[1], channel];
  }

  choose(layer, place) {
    this.stop();
    this.chosen = { ...this.chosen, [layer]: place };
    this.show();
  }

  show() {
    const { steps, arrays } = this.trace;
    const step = steps[this.index];
    const words = this.words;
    this.counter.textContent = fill(words.step, { n: this.index + 1, of: steps.length });
    this.title.textContent = `${step.layer} · ${step.kind} · ${step.shape.join("×")}`;
    this.back.disabled = this.index === 0;
    this.next.disabled = this.index === steps.length - 1;
    this.maps.replaceChildren();
    this.work.replaceChildren();
    const output = arrays[`map:${step.layer}`];
    if (!step.unit) {
      this.maps.append(this.figure(output, 0, words.image, { side: 300 }));
      this.line.textContent = words.image;
      return;
    }
    const place = this.place(step);
    const unit = unitOf(this.trace, this.index, place);
    const input = arrays[`map:${step.parents[0]}`];
    if (unit.operation === "copy") {
      this.line.textContent = fill(words.copy, { value: step.shape.join("×") });
    } else {
      const where = place.length === 3
        ? fill(words.place, { row: place[0], column: place[1], map: place[2] })
        : `${words.unit} ${this.name(step, place[0])}`;
      this.line.textContent = `${where}: ${sentence(unit, words)}`;
    }
    if (input.shape.length === 3) {
      const shown = unit.operation === "convolution" ? this.loudest(unit) : place.length === 3 ? place[2] : 0;
      const cell = unit.operation === "activation" ? place : null;
      this.maps.append(this.figure(input, Math.min(shown, input.shape[2] - 1),
        `${words.input}: ${step.parents[0]}, ${words.map} ${shown}`, { side: 260, box: unit.box, cell }));
    }
    if (output.shape.length === 3) {
      const until = this.at === null ? null : place[0] * step.shape[1] + place[1];
      this.maps.append(this.figure(output, place[2], `${words.output}: ${words.map} ${place[2]}`,
        { side: 260, cell: place, until, onchoose: (row, column) => this.choose(step.layer, [row, column, place[2]]) }));
      if (step.shape[2] > 1) this.maps.append(this.strip(step, output, place));
    } else {
      this.maps.append(this.units(step, output, place));
    }
    this.arithmetic(unit);
  }

  name(step, unit) {
    const { labels } = this.trace;
    return step.shape[0] === labels.length ? labels[unit] : unit;
  }

  loudest(unit) {
    let best = 0, most = -1;
    unit.products.forEach((grid, channel) => {
      const sum = Math.abs(grid.flat().reduce((a, b) => a + b, 0));
      if (sum > most) { most = sum; best = channel; }
    });
    return best;
  }

  figure(array, channel, caption, options) {
    const canvas = element("canvas", { role: "img", "aria-label": caption });
    const size = drawMap(canvas, array, channel, options);
    if (options.onchoose) {
      canvas.classList.add("choosable");
      canvas.title = this.words.choose;
      canvas.addEventListener("click", (event) => {
        options.onchoose(Math.floor(event.offsetY / size), Math.floor(event.offsetX / size));
      });
    }
    return element("figure", {}, canvas, element("figcaption", { text: caption }));
  }

  strip(step, output, place) {
    const strip = element("div", { class: "trace-strip", role: "group", "aria-label": this.words.map });
    for (let channel = 0; channel < Math.min(step.shape[2], 32); channel++) {
      const canvas = element("canvas", { "aria-hidden": "true" });
      drawMap(canvas, output, channel, { side: 44, numbers: false });
      strip.append(element("button", {
        type: "button", "aria-pressed": String(channel === place[2]),
        "aria-label": `${this.words.map} ${channel}`,
        onclick: () => {
          this.choose(step.layer, [place[0], place[1], channel]);
          this.maps.querySelectorAll(".trace-strip button")[channel]?.focus();
        },
      }, canvas));
    }
    return strip;
  }

  units(step, output, place) {
    const top = largest(output.data);
    const list = element("div", { class: "trace-units", role: "group", "aria-label": this.words.output });
    const few = step.shape[0] <= 32;
    for (let unit = 0; unit < step.shape[0]; unit++) {
      const label = `${this.name(step, unit)}: ${number(output.data[unit])}`;
      const button = element("button", {
        type: "button", title: label, "aria-label": label, "aria-pressed": String(unit === place[0]),
        text: few ? label : "", onclick: () => this.choose(step.layer, [unit]),
      });
      if (!few) button.tabIndex = unit === place[0] ? 0 : -1;
      button.style.backgroundColor = `rgb(${shade(output.data[unit], top, 0.6)})`;
      list.append(button);
    }
    return list;
  }

  arithmetic(unit) {
    const words = this.words;
    if (unit.operation === "convolution") {
      const channel = this.loudest(unit);
      const of = unit.patch.length > 1 ? ` (${words.map} ${channel})` : "";
      this.work.append(
        table(unit.patch[channel], words.patch + of), element("span", { class: "sign", text: "×" }),
        table(unit.kernel[channel], words.kernel), element("span", { class: "sign", text: "=" }),
        table(unit.products[channel], words.products),
      );
    } else if (unit.patch) {
      this.work.append(table(unit.patch[0], words.window));
    } else if (unit.votes) {
      const sorted = [...unit.votes].sort((a, b) => Math.abs(b.product) - Math.abs(a.product)).slice(0, 12);
      const top = Math.abs(sorted[0].product) || 1;
      const made = element("table", { class: "votes" }, element("caption", { text: words.votes }));
      for (const vote of sorted) {
        const bar = element("span", { class: vote.product < 0 ? "bar minus" : "bar" });
        bar.style.width = `${(Math.abs(vote.product) / top) * 100}px`;
        made.append(element("tr", {}, element("td", { text: `${vote.from}` }),
          element("td", { text: `${number(vote.value)} × ${number(vote.weight)}` }),
          element("td", { text: number(vote.product, 4) }), element("td", {}, bar)));
      }
      this.work.append(made);
    }
  }
}
