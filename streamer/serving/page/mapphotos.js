/** Photos in the place of points, where the map is zoomed in so far that there is room for them. */

import { thumbUrl } from "./api.js";
import { byId, element } from "./dom.js";

const SIDE_PIXELS = 56;
const MOST = 80;
const CROWD = 8; // points in the room of one photo: where there are more, photos would hide too many
const SETTLE_MS = 150;

export class MapPhotos {
  #shown = new Map();
  #waiting = 0;

  /** Move the photos with their points; which ones are shown is chosen when the map has come to rest. */
  place(points, viewport, wanted) {
    for (const [point, image] of this.#shown) this.#put(image, points, viewport, point);
    clearTimeout(this.#waiting);
    this.#waiting = setTimeout(() => this.#choose(points, viewport, wanted), SETTLE_MS);
  }

  /** The point whose photo covers a place of the screen, or -1. */
  at(left, top, points, viewport) {
    for (const point of this.#shown.keys()) {
      const [across, down] = viewport.toScreen(points.x[point], points.y[point]);
      if (Math.max(Math.abs(across - left), Math.abs(down - top)) <= SIDE_PIXELS / 2) return point;
    }
    return -1;
  }

  #choose(points, viewport, wanted) {
    const chosen = new Set(chooseApart(points, viewport, wanted, this.#shown));
    for (const [point, image] of this.#shown) {
      if (chosen.has(point)) continue;
      image.remove();
      this.#shown.delete(point);
    }
    for (const point of chosen) {
      if (this.#shown.has(point)) continue;
      const image = element("img", { src: thumbUrl(points.id(point)), alt: "", width: SIDE_PIXELS, height: SIDE_PIXELS });
      image.addEventListener("error", () => image.remove());
      this.#shown.set(point, image);
      this.#put(image, points, viewport, point);
      byId("map-photos").append(image);
    }
  }

  #put(image, points, viewport, point) {
    const [left, top] = viewport.toScreen(points.x[point], points.y[point]);
    image.style.transform = `translate(${left - SIDE_PIXELS / 2}px, ${top - SIDE_PIXELS / 2}px)`;
  }
}

/** Points on the screen no two of which are nearer than a photo's side; none where the map is too full for that.
 *
 * Those that are shown come first, so that a photo stays while the map moves.
 */
function chooseApart(points, viewport, wanted, shown) {
  const seen = [];
  const most = (CROWD * viewport.width * viewport.height) / SIDE_PIXELS ** 2;
  for (const point of points.order) {
    const [left, top] = viewport.toScreen(points.x[point], points.y[point]);
    if (left < 0 || top < 0 || left > viewport.width || top > viewport.height || !wanted(point)) continue;
    if (seen.push([point, left, top]) > most) return [];
  }
  seen.sort((one, other) => shown.has(other[0]) - shown.has(one[0]));
  const chosen = [];
  for (const [point, left, top] of seen) {
    const near = (other) => Math.max(Math.abs(other[1] - left), Math.abs(other[2] - top)) < SIDE_PIXELS + 4;
    if (chosen.some(near)) continue;
    chosen.push([point, left, top]);
    if (chosen.length === MOST) break;
  }
  return chosen.map(([point]) => point);
}
