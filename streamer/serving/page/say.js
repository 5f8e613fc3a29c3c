/** What the page says: errors, which stay until they are dismissed, and short news for screen readers. */

import { byId, element, icon } from "./dom.js";

/** Show an error or a note; `retry` adds a button that tries again. */
export function warn(message, retry = null) {
  const again = retry && element("button", { type: "button", click: () => (clear(), retry()) }, "Try again");
  const close = element("button", { type: "button", class: "round", "aria-label": "Dismiss", click: clear }, icon("close"));
  byId("alert").replaceChildren(element("div", { class: "alert-box" }, element("p", {}, message), again, close));
}

/** Take the error or note away. */
export function clear() {
  byId("alert").replaceChildren();
}

/** Tell a screen reader what has changed. */
export function announce(message) {
  byId("announcement").textContent = message;
}
