/** The labels of the map and their colours; one that is pressed stands out on the map. */

import { cssColour } from "./colours.js";
import { byId, count, element } from "./dom.js";
import { format } from "./route.js";

export class Legend {
  #onHighlight;
  #pressed = null;

  /** `onHighlight(number)` is told the label that is to stand out, null for none. */
  constructor(onHighlight) {
    this.#onHighlight = onHighlight;
  }

  /** List the labels that have points, in their colours; the last total is of photos without a label. */
  fill(names, totals, dark) {
    this.#pressed = null;
    this.#onHighlight(null);
    const rows = [];
    totals.forEach((total, number) => {
      const unlabelled = number === totals.length - 1;
      const name = unlabelled ? "no label" : names[number];
      if (total && name !== undefined) rows.push(this.#row(name, total, unlabelled ? null : number, number, dark));
    });
    byId("legend").replaceChildren(
      element("h2", { id: "legend-title" }, "Labels"),
      element("ul", { "aria-labelledby": "legend-title" }, ...rows),
    );
  }

  #row(name, total, colour, number, dark) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.setProperty("--swatch", cssColour(colour, dark));
    const button = element(
      "button",
      { type: "button", "aria-pressed": "false", click: () => this.#press(number, button) },
      swatch,
      element("span", { class: "name" }, name),
      element("span", { class: "muted" }, count(total)),
    );
    button.addEventListener("pointerenter", ({ pointerType }) => pointerType === "mouse" && this.#onHighlight(number));
    button.addEventListener("pointerleave", () => this.#onHighlight(this.#pressed));
    if (colour === null) return element("li", {}, button);
    const link = element("a", { href: format({ label: name }), title: `Some photos of “${name}”` }, "photos");
    link.setAttribute("aria-label", `Some photos of ${name}`);
    return element("li", {}, button, link);
  }

  #press(number, button) {
    this.#pressed = this.#pressed === number ? null : number;
    for (const other of byId("legend").querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(other === button && this.#pressed !== null));
    }
    this.#onHighlight(this.#pressed);
  }
}
