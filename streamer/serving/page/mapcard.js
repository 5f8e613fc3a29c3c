/** The photo of the point that is under the pointer, or that the keys have come to. */

import { getImage, thumbUrl } from "./api.js";
import { byId, element, fileName } from "./dom.js";
import { format } from "./route.js";
import { announce } from "./say.js";

const NAME_MS = 120; // a pointer that only passes asks for no names
const GAP_PIXELS = 14;

export class MapCard {
  #running = new AbortController();

  /** Show the photo of an id; `spoken` tells a screen reader its name. */
  show(id, label, spoken) {
    this.#running.abort();
    this.#running = new AbortController();
    const name = element("span", { class: "name" }, "…");
    byId("map-card").replaceChildren(
      element("img", { src: thumbUrl(id), alt: "", width: 160, height: 160 }),
      element("span", { class: "label" }, label ?? ""),
      name,
    );
    byId("map-card").setAttribute("href", format({ id }));
    byId("map-card").hidden = byId("map-ring").hidden = false;
    this.#name(id, label, name, spoken, this.#running.signal);
  }

  /** Put it beside a place of the map, where there is room. */
  place(left, top, { width, height }) {
    const card = byId("map-card");
    byId("map-ring").style.transform = `translate(${left}px, ${top}px)`;
    const right = left + GAP_PIXELS + card.offsetWidth <= width ? left + GAP_PIXELS : left - GAP_PIXELS - card.offsetWidth;
    const down = Math.min(Math.max(4, top - card.offsetHeight / 2), height - card.offsetHeight - 4);
    card.style.transform = `translate(${Math.max(4, right)}px, ${down}px)`;
  }

  hide() {
    this.#running.abort();
    byId("map-card").hidden = byId("map-ring").hidden = true;
  }

  async #name(id, label, target, spoken, signal) {
    await new Promise((resolve) => setTimeout(resolve, NAME_MS));
    if (signal.aborted) return;
    const { key } = await getImage(id, signal).catch(() => ({ key: "" }));
    if (signal.aborted) return;
    target.textContent = key ? fileName(key) : "This photo is gone";
    byId("map-card").setAttribute("aria-label", `Photos like ${key}`);
    if (spoken) announce([target.textContent, label].filter(Boolean).join(", "));
  }
}
