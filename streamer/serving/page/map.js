/** The map of the library: a point a photo, those that look alike close together. */

import { getInfo, getMap } from "./api.js";
import { pixelColours } from "./colours.js";
import { byId, count, element, icon, photos } from "./dom.js";
import { listenForGestures } from "./gestures.js";
import { Legend } from "./legend.js";
import { MapCard } from "./mapcard.js";
import { MapPhotos } from "./mapphotos.js";
import { Painter } from "./paint.js";
import { Points } from "./points.js";
import { format, go } from "./route.js";
import { clear, warn } from "./say.js";
import { Viewport } from "./viewport.js";

const PICK_PIXELS = 14;
const KEY_PIXELS = 36; // from one photo to the next by an arrow key
const LARGEST_RATIO = 2; // of device to CSS pixels: a point is no sharper beyond
const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Build the view; `show()` loads and draws it. */
export function prepare() {
  const view = new MapView();
  return { show: () => view.show(), stop: () => view.stop() };
}

class MapView {
  #viewport = new Viewport();
  #points = null;
  #running = new AbortController();
  #frame = 0;
  #selected = -1;
  #label = null;
  #names = [];

  constructor() {
    byId("view-map").append(...layout());
    this.#painter = new Painter(byId("map-canvas"));
    this.#card = new MapCard();
    this.#photos = new MapPhotos();
    this.#legend = new Legend((label) => this.#highlight(label));
    new ResizeObserver(() => this.#resize()).observe(byId("map-frame"));
    addEventListener("themechange", () => this.#recolour());
    this.#listen();
  }

  #painter;
  #card;
  #photos;
  #legend;
  #style;

  /** Load the points; those of the same generation come from the browser's cache. */
  async show() {
    this.#running = new AbortController();
    const { signal } = this.#running;
    byId("map-frame").setAttribute("aria-busy", "true");
    try {
      const [info, { bytes, idsFrom, total }] = await Promise.all([getInfo(signal), getMap(signal)]);
      this.#points = new Points(bytes, idsFrom);
      this.#names = info.labels.map(({ label }) => label);
      this.#select(-1);
      this.#label = null;
      this.#resize();
      this.#recolour();
      byId("map-summary").textContent = summary(this.#points, total || info.images, this.#names);
      clear();
    } catch (error) {
      if (!signal.aborted) warn(error.message, () => this.show());
    } finally {
      byId("map-frame").removeAttribute("aria-busy");
    }
  }

  stop() {
    this.#running.abort();
    this.#card.hide();
  }

  #listen() {
    const canvas = byId("map-canvas");
    listenForGestures(canvas, {
      onPan: (right, down) => this.#move(() => this.#viewport.pan(right, down)),
      onZoom: (left, top, factor) => this.#move(() => this.#viewport.zoomAt(left, top, factor)),
      onHover: (left, top) => this.#select(this.#pointAt(left, top)),
      onLeave: () => document.activeElement === canvas || this.#select(-1),
      onClick: (left, top, touched) => {
        const point = this.#pointAt(left, top);
        this.#select(point);
        if (point >= 0 && !touched) go({ id: this.#points.id(point) }); // a finger has not seen the photo yet
      },
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => {
      if (this.#selected < 0 && canvas.matches(":focus-visible")) this.#selectTowards([0, 0]);
    });
    canvas.addEventListener("blur", ({ relatedTarget }) => relatedTarget === byId("map-card") || this.#select(-1));
    const middle = () => [this.#viewport.width / 2, this.#viewport.height / 2];
    byId("map-in").addEventListener("click", () => this.#move(() => this.#viewport.zoomAt(...middle(), 1.6)));
    byId("map-out").addEventListener("click", () => this.#move(() => this.#viewport.zoomAt(...middle(), 1 / 1.6)));
    byId("map-whole").addEventListener("click", () => this.#move(() => this.#viewport.reset()));
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.#points) return;
    const { key } = event;
    const zoom = { "+": 1.6, "=": 1.6, "-": 1 / 1.6 }[key];
    if (key in DIRECTIONS) this.#selectTowards(DIRECTIONS[key]);
    else if (zoom) this.#move(() => this.#viewport.zoomAt(...this.#selectedPlace(), zoom));
    else if (key === "0") this.#move(() => this.#viewport.reset());
    else if (key === "Escape") this.#select(-1);
    else if (key === "Enter" && this.#selected >= 0) go({ id: this.#points.id(this.#selected) });
    else return;
    event.preventDefault();
  }

  /** Select the next photo in a direction, looking further until there is one; the map follows it. */
  #selectTowards([right, down]) {
    const [left, top] = this.#selectedPlace();
    const { x, y } = this.#points;
    const ahead = (point) => {
      if (point === this.#selected || !this.#wanted(point)) return false;
      const [toRight, toBottom] = this.#viewport.toScreen(x[point], y[point]);
      return !(right || down) || (toRight - left) * right + (toBottom - top) * down > 4;
    };
    const furthest = 2 * Math.max(this.#viewport.width, this.#viewport.height) * this.#viewport.zoom;
    for (let step = KEY_PIXELS; step < furthest; step *= 1.5) {
      const point = this.#pick(left + step * right, top + step * down, 0.9 * step, ahead);
      if (point < 0) continue;
      this.#follow(point);
      this.#select(point, true);
      return;
    }
  }

  #follow(point) {
    const { width, height } = this.#viewport;
    const [left, top] = this.#viewport.toScreen(this.#points.x[point], this.#points.y[point]);
    const beyond = (place, size) => Math.min(0, size - KEY_PIXELS - place) + Math.max(0, KEY_PIXELS - place);
    this.#move(() => this.#viewport.pan(beyond(left, width), beyond(top, height)));
  }

  #selectedPlace() {
    if (this.#selected < 0) return [this.#viewport.width / 2, this.#viewport.height / 2];
    return this.#viewport.toScreen(this.#points.x[this.#selected], this.#points.y[this.#selected]);
  }

  /** What a pointer means: the photo that it is on, or the nearest point. */
  #pointAt(left, top) {
    if (!this.#points) return -1;
    const covering = this.#photos.at(left, top, this.#points, this.#viewport);
    return covering >= 0 ? covering : this.#pick(left, top, PICK_PIXELS, (point) => this.#wanted(point));
  }

  #pick(left, top, radius, wanted) {
    const reach = this.#viewport.scale.map((pixels) => radius / pixels);
    return this.#points.nearest(this.#viewport.toMap(left, top), reach, wanted);
  }

  #wanted(point) {
    return this.#label === null || Math.min(this.#points.labels[point], this.#points.labelCount) === this.#label;
  }

  #select(point, spoken = false) {
    if (point === this.#selected) return;
    this.#selected = point;
    byId("map-canvas").classList.toggle("over", point >= 0);
    if (point < 0) this.#card.hide();
    else this.#card.show(this.#points.id(point), this.#names[this.#points.labels[point]] ?? null, spoken);
    this.#draw();
  }

  #highlight(label) {
    this.#label = label;
    this.#draw();
  }

  #move(change) {
    if (!this.#points) return;
    change();
    this.#draw();
  }

  #resize() {
    const { clientWidth, clientHeight } = byId("map-frame");
    if (!clientWidth || !clientHeight) return;
    Object.assign(this.#viewport, { width: clientWidth, height: clientHeight });
    const ratio = Math.min(devicePixelRatio, LARGEST_RATIO);
    this.#painter.resize(Math.round(clientWidth * ratio), Math.round(clientHeight * ratio), ratio);
    this.#draw();
  }

  #recolour() {
    if (!this.#points) return;
    const style = getComputedStyle(byId("map-frame"));
    const [background, faded] = ["--map-ground", "--map-faded"].map((name) => rgb(style.getPropertyValue(name)));
    const dark = Math.max(...background) < 128;
    this.#style = { colours: pixelColours(this.#points.labelCount, dark), background, faded };
    this.#legend.fill(this.#names, this.#points.perLabel(), dark);
    this.#draw();
  }

  /** One picture a frame, however often it is asked for. */
  #draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (!this.#points || !this.#style) return;
      this.#painter.paint(this.#points, this.#viewport, { ...this.#style, label: this.#label });
      this.#photos.place(this.#points, this.#viewport, (point) => this.#wanted(point));
      if (this.#selected >= 0) this.#card.place(...this.#selectedPlace(), this.#viewport);
    });
  }
}

/** "rgb(255, 0, 10)" -> [255, 0, 10] */
const rgb = (text) => text.match(/\d+/g).slice(0, 3).map(Number);

function summary(points, total, names) {
  if (!points.count) return "There are no photos to draw yet.";
  const sample = points.count < total ? `${count(points.count)} of ${photos(total)}` : photos(total);
  const labels = names.length ? ` They have ${count(names.length)} labels, listed with the map.` : "";
  return `${sample}, a point each; those that look alike are close together.${labels}`;
}

function layout() {
  const button = (id, name, sign) =>
    element("button", { id, type: "button", class: "round", "aria-label": name, title: name }, icon(sign));
  const help = "Arrow keys go from photo to photo, plus and minus zoom, zero shows all, Enter searches from the photo.";
  return [
    element(
      "div",
      { class: "heading" },
      element("h1", { id: "map-title", tabindex: "-1" }, "Map of the library"),
      element("p", { id: "map-summary", class: "muted" }, "Loading…"),
    ),
    element(
      "div",
      { class: "map-layout" },
      element(
        "div",
        { id: "map-frame", class: "map-frame" },
        element("canvas", {
          id: "map-canvas",
          tabindex: "0",
          role: "application",
          "aria-label": "Map of the library",
          "aria-describedby": "map-summary map-help",
        }),
        element("div", { id: "map-photos", class: "map-photos", "aria-hidden": "true" }),
        element("div", { id: "map-ring", class: "map-ring", hidden: true }),
        element("a", { id: "map-card", class: "map-card", tabindex: "-1", hidden: true, href: format({}) }),
        element(
          "div",
          { class: "map-controls" },
          button("map-in", "Zoom in", "plus"),
          button("map-out", "Zoom out", "minus"),
          button("map-whole", "Show all of the map", "whole"),
        ),
      ),
      element("div", { id: "legend", class: "legend" }),
    ),
    element("p", { id: "map-help", class: "muted map-help" }, `${help} Drag and wheel, or two fingers, move and zoom.`),
  ];
}
