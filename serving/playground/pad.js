// The drawing field: mouse, pen, finger, keys; images dropped, pasted, opened, or from the camera.

const SIZE = 280;
// What the server decodes; anything else that the browser can read is sent as a PNG.
const DECODED = ["image/png", "image/jpeg", "image/webp", "image/bmp"];

export class Pad {
  constructor(canvas, onchange) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.onchange = onchange;
    this.width = 22;
    this.colour = "#ffffff";
    this.isErasing = false;
    this.isEmpty = true;
    this.file = null; // an image as it was given, until something is drawn on it
    this.fileSize = null; // its height and width
    this.cursor = null;
    this.isDown = false;
    this.last = null;
    this.cells = null; // [rows, columns] where the pen fills whole pixels of a tiny input
    this.clear(false);
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => { this.last = null; });
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => { this.isDown = false; });
  }

  clear(tell = true) {
    this.context.globalCompositeOperation = "source-over";
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, SIZE, SIZE);
    this.isEmpty = true;
    this.file = null;
    if (tell) this.onchange(performance.now());
  }

  invert() {
    const image = this.context.getImageData(0, 0, SIZE, SIZE);
    for (let at = 0; at < image.data.length; at++) {
      if (at % 4 !== 3) image.data[at] = 255 - image.data[at];
    }
    this.context.putImageData(image, 0, 0);
    this.file = null;
    this.isEmpty = false;
    this.onchange(performance.now());
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIZE, ((event.clientY - box.top) / box.height) * SIZE];
  }

  down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.at(event);
    this.line(this.last, this.last, event.timeStamp);
  }

  move(event) {
    if (!this.last) return;
    // A fast pen makes more points than frames.
    for (const each of event.getCoalescedEvents?.() ?? [event]) {
      const next = this.at(each);
      this.line(this.last, next, event.timeStamp);
      this.last = next;
    }
  }

  line(from, to, when) {
    const { context } = this;
    if (this.cells) {
      this.fillCells(from, to);
    } else {
      this.stroke(from, to);
    }
    this.file = null;
    this.isEmpty = false;
    this.onchange(when);
  }

  fillCells(from, to) {
    const [rows, columns] = this.cells;
    const [h, w] = [SIZE / rows, SIZE / columns];
    const steps = Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / (Math.min(h, w) / 4)) + 1;
    this.context.fillStyle = this.isErasing ? "#000" : this.colour;
    for (let step = 0; step <= steps; step++) {
      const x = from[0] + ((to[0] - from[0]) * step) / steps;
      const y = from[1] + ((to[1] - from[1]) * step) / steps;
      this.context.fillRect(Math.floor(x / w) * w, Math.floor(y / h) * h, w, h);
    }
  }

  stroke(from, to) {
    const { context } = this;
    context.strokeStyle = this.isErasing ? "#000" : this.colour;
    context.lineWidth = this.width;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }

  key(event) {
    const step = event.shiftKey ? 28 : 10;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else if (event.key === " ") {
      this.cursor ??= [SIZE / 2, SIZE / 2];
      this.isDown = !this.isDown;
      this.onpen?.(this.isDown);
      if (this.isDown) this.line(this.cursor, this.cursor, performance.now());
    } else if (moves[event.key]) {
      this.cursor ??= [SIZE / 2, SIZE / 2];
      const next = this.cursor.map((each, axis) => Math.max(0, Math.min(SIZE, each + moves[event.key][axis])));
      if (this.isDown) this.line(this.cursor, next, performance.now());
      this.cursor = next;
    } else {
      return;
    }
    event.preventDefault();
  }

  // Shows an image, cut to a square; what was given is what is sent, until it is drawn on.
  show(source, file = null) {
    const width = source.videoWidth ?? source.width;
    const height = source.videoHeight ?? source.height;
    const side = Math.min(width, height);
    // What shows through is black to the server, too.
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, SIZE, SIZE);
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(source, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIZE, SIZE);
    this.file = file;
    this.fileSize = [height, width];
    this.isEmpty = false;
    this.onchange(performance.now());
  }

  async open(file) {
    const bitmap = await createImageBitmap(file);
    this.show(bitmap, file);
    bitmap.close();
  }

  // The picture to send: a drawing as the network needs it in size, framed when that is asked for.
  async picture({ size = null, framing = null } = {}) {
    const isFitting = !size || String(size) === String(this.fileSize);
    if (this.file && isFitting && DECODED.includes(this.file.type)) return this.file;
    const ink = framing && !this.file ? this.ink() : null;
    if (ink) size ??= [framing.field, framing.field];
    const isByCells = this.cells && !this.file && (!size || String(size) === String(this.cells));
    size ??= isByCells ? this.cells : null;
    const [height, width] = size ?? [SIZE, SIZE];
    const made = document.createElement("canvas");
    made.width = width;
    made.height = height;
    const context = made.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    // Whole pixels stay whole.
    context.imageSmoothingEnabled = !isByCells;
    if (ink) {
      const [x, y] = framing.is_by_mass
        ? [ink.x, ink.y] : [(ink.left + ink.right) / 2, (ink.top + ink.bottom) / 2];
      const box = (framing.box / framing.field) * Math.min(width, height);
      const scale = box / Math.max(ink.right - ink.left, ink.bottom - ink.top);
      context.drawImage(this.canvas, ink.left, ink.top, ink.right - ink.left, ink.bottom - ink.top,
        width / 2 - (x - ink.left) * scale, height / 2 - (y - ink.top) * scale,
        (ink.right - ink.left) * scale, (ink.bottom - ink.top) * scale);
    } else {
      context.drawImage(this.canvas, 0, 0, width, height);
    }
    return new Promise((resolve) => made.toBlob(resolve, "image/png"));
  }

  // Where the ink is, and its centre of mass; null for an empty field.
  ink() {
    const { data } = this.context.getImageData(0, 0, SIZE, SIZE);
    let left = SIZE, right = 0, top = SIZE, bottom = 0, mass = 0, x = 0, y = 0;
    for (let row = 0; row < SIZE; row++) {
      for (let column = 0; column < SIZE; column++) {
        const at = (row * SIZE + column) * 4;
        const value = data[at] + data[at + 1] + data[at + 2];
        if (value < 96) continue;
        left = Math.min(left, column); right = Math.max(right, column + 1);
        top = Math.min(top, row); bottom = Math.max(bottom, row + 1);
        mass += value; x += value * (column + 0.5); y += value * (row + 0.5);
      }
    }
    return mass ? { left, right, top, bottom, x: x / mass, y: y / mass } : null;
  }
}
