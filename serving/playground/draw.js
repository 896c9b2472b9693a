// Arrays as pictures.
import { shade } from "./trace.js";

// From zero to the largest: dark to light through violet and orange.
const HEAT = [[13, 8, 35], [75, 15, 109], [151, 39, 104], [221, 81, 58], [252, 165, 10], [252, 255, 164]];

export function heat(share) {
  const place = Math.max(0, Math.min(1, share)) * (HEAT.length - 1);
  const low = Math.min(HEAT.length - 2, Math.floor(place));
  return HEAT[low].map((each, index) => each + (HEAT[low + 1][index] - each) * (place - low));
}

export function most(data) {
  let top = 0;
  for (const value of data) if (Math.abs(value) > top) top = Math.abs(value);
  return top || 1;
}

// One channel of [h, w, c] (or [h, w]) in blue, white and red, one pixel a value.
export function drawSigned(canvas, array, channel, top, side) {
  const [h, w, c = 1] = array.shape;
  paint(canvas, h, w, side, (at) => shade(array.data[at * c + channel], top));
}

// What the network takes: gray from its lowest to its highest value, or colours.
export function drawInput(canvas, array, side, isBgr) {
  const [h, w, c] = array.shape;
  let low = Infinity, high = -Infinity;
  for (const value of array.data) { if (value < low) low = value; if (value > high) high = value; }
  const scale = 255 / ((high - low) || 1);
  paint(canvas, h, w, side, (at) => [0, 1, 2].map((index) => {
    const channel = c === 1 ? 0 : isBgr ? 2 - index : index;
    return (array.data[at * c + channel] - low) * scale;
  }));
  return [low, high];
}

function paint(canvas, h, w, side, colour) {
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    const factor = side / Math.max(h, w);
    const whole = factor >= 1 ? Math.max(1, Math.floor(factor)) : factor;
    canvas.style.width = `${Math.round(w * whole)}px`;
    canvas.style.height = `${Math.round(h * whole)}px`;
  }
  const context = canvas.getContext("2d");
  const image = context.createImageData(w, h);
  for (let at = 0; at < h * w; at++) {
    const [r, g, b] = colour(at);
    image.data.set([r, g, b, 255], at * 4);
  }
  context.putImageData(image, 0, 0);
}

// A map from zero up, [h, w], laid over the pixels that were seen; `strength` in 0..1.
export function drawOverlay(canvas, pixels, map, strength, isSigned, isBgr) {
  const [h, w, c] = pixels.shape;
  const top = most(map.data);
  const size = 280;
  paint(canvas, h, w, size, (at) => {
    const value = map.data[at] / top;
    const base = [0, 1, 2].map((index) => pixels.data[at * c + (c === 1 ? 0 : isBgr ? 2 - index : index)]);
    if (isSigned) {
      // Gray stays gray where nothing is said; the ends are blue and red.
      const end = value < 0 ? [60, 140, 255] : [255, 60, 60];
      const share = Math.abs(value) * strength;
      return base.map((each, index) => each * 0.7 * (1 - share) + end[index] * share);
    }
    const share = Math.max(0, value) * strength;
    const colour = heat(value);
    return base.map((each, index) => each * (1 - 0.4 * strength) * (1 - share) + colour[index] * share);
  });
}
