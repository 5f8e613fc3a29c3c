/** Which part of the map is seen: the place in the middle, and pixels for a unit of the map.
 *
 * The two axes are stretched apart to fill the canvas: a principal component has no length that must be kept.
 */

const MARGIN_PIXELS = 36;
const LARGEST_ZOOM = 400;

export class Viewport {
  width = 1;
  height = 1;
  x = 0;
  y = 0;
  zoom = 1;

  /** Pixels of the screen (CSS pixels) for a unit of the map, across and down. */
  get scale() {
    return [this.width, this.height].map((pixels) => (this.zoom * Math.max(1, pixels - 2 * MARGIN_PIXELS)) / 2);
  }

  toScreen(x, y) {
    const [across, down] = this.scale;
    return [(x - this.x) * across + this.width / 2, (this.y - y) * down + this.height / 2];
  }

  toMap(left, top) {
    const [across, down] = this.scale;
    return [(left - this.width / 2) / across + this.x, this.y - (top - this.height / 2) / down];
  }

  /** Move what is seen by pixels of the screen. */
  pan(right, down) {
    const [across, upright] = this.scale;
    this.x = clamp(this.x - right / across, -1, 1);
    this.y = clamp(this.y + down / upright, -1, 1);
  }

  /** Zoom by a factor; the place of the map under that pixel stays there. */
  zoomAt(left, top, factor) {
    const [x, y] = this.toMap(left, top);
    this.zoom = clamp(this.zoom * factor, 1, LARGEST_ZOOM);
    const [nowLeft, nowTop] = this.toScreen(x, y);
    this.pan(left - nowLeft, top - nowTop);
    if (this.zoom === 1) [this.x, this.y] = [0, 0];
  }

  /** See all of the map again. */
  reset() {
    [this.x, this.y, this.zoom] = [0, 0, 1];
  }
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
