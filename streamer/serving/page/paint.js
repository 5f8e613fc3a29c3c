/** Paint the points into one bitmap, a stamp each, which is put on the canvas at once.
 *
 * 50,000 arcs of canvas 2D take several frames' time; writing the pixels takes a part of one (scripts/bench_page.py).
 */

import { pixel } from "./colours.js";
import { UNLABELLED } from "./points.js";

const LARGEST_RADIUS = 6;
const SMALLEST_RADIUS = 1.3;

export class Painter {
  #context;
  #image = null;
  #pixels = null;
  #pad = 0;

  constructor(canvas) {
    this.#context = canvas.getContext("2d", { alpha: false });
  }

  /** Give the canvas that many pixels; `ratio` of them are a CSS pixel. */
  resize(width, height, ratio) {
    this.ratio = ratio;
    this.#pad = Math.ceil(LARGEST_RADIUS * ratio) + 1; // points at the edge are painted without asking where it is
    Object.assign(this.#context.canvas, { width, height });
    this.#image = new ImageData(width + 2 * this.#pad, height + 2 * this.#pad);
    this.#pixels = new Uint32Array(this.#image.data.buffer);
  }

  /** Paint the points that a viewport shows; those of other labels than `label` are greyed where one is given. */
  paint(points, viewport, { colours, background, faded, label = null }) {
    this.#pixels.fill(pixel(background));
    const radius = this.radius(points.count, viewport);
    if (label === null) this.#stampAll(points, viewport, radius, (number) => colours[number]);
    else {
      const chosen = Math.min(label, points.labelCount);
      this.#stampAll(points, viewport, radius, (number) => (number === chosen ? 0 : pixel(faded)));
      this.#stampAll(points, viewport, radius * 1.25, (number) => (number === chosen ? colours[number] : 0));
    }
    this.#context.putImageData(this.#image, -this.#pad, -this.#pad);
  }

  /** The radius of a point, CSS pixels: larger the fewer points there are to see. */
  radius(count, { width, height, zoom }) {
    const room = Math.sqrt((width * height) / Math.max(1, count)) * 0.16 * Math.sqrt(zoom);
    return Math.min(LARGEST_RADIUS / 1.25, Math.max(SMALLEST_RADIUS, room));
  }

  #stampAll(points, viewport, radius, colourOf) {
    const { width, height } = this.#image;
    const { offsets, covers } = stamp(radius * this.ratio, width);
    const [across, down] = viewport.scale.map((pixels) => pixels * this.ratio);
    const left = (viewport.width / 2) * this.ratio - viewport.x * across + this.#pad;
    const top = (viewport.height / 2) * this.ratio + viewport.y * down + this.#pad;
    const [pad, right, bottom, pixels] = [this.#pad, width - this.#pad, height - this.#pad, this.#pixels];
    const { x, y, labels, order, labelCount } = points;
    for (let turn = 0; turn < order.length; turn++) {
      const point = order[turn];
      const column = (x[point] * across + left) | 0;
      const row = (top - y[point] * down) | 0;
      if (column < pad || column >= right || row < pad || row >= bottom) continue;
      const number = labels[point];
      const colour = colourOf(number === UNLABELLED || number > labelCount ? labelCount : number);
      if (colour === 0) continue;
      const base = row * width + column;
      for (let place = 0; place < offsets.length; place++) {
        const at = base + offsets[place];
        const cover = covers[place];
        pixels[at] = cover === 256 ? colour : blend(pixels[at], colour, cover);
      }
    }
  }
}

/** The pixels of a disc around its middle one, and how much of each it covers, in 256ths. */
function stamp(radius, width) {
  const [offsets, covers] = [[], []];
  const reach = Math.ceil(radius);
  for (let row = -reach; row <= reach; row++) {
    for (let column = -reach; column <= reach; column++) {
      const cover = Math.round(256 * Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(row, column))));
      if (cover === 0) continue;
      offsets.push(row * width + column);
      covers.push(cover);
    }
  }
  return { offsets: Int32Array.from(offsets), covers: Int32Array.from(covers) };
}

/** One pixel over another; red and blue are worked out together, as their bytes leave room between them. */
function blend(under, over, cover) {
  const rest = 256 - cover;
  const redBlue = ((Math.imul(under & 0xff00ff, rest) + Math.imul(over & 0xff00ff, cover)) >>> 8) & 0xff00ff;
  const green = ((Math.imul(under & 0xff00, rest) + Math.imul(over & 0xff00, cover)) >>> 8) & 0xff00;
  return (0xff000000 | redBlue | green) >>> 0;
}
