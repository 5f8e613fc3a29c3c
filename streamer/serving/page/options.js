/** The options of a search: label, number of photos, exact or approximate. */

import { byId, count, element } from "./dom.js";

const TYPING_MS = 150;

/** Call `onChange({label} | {k} | {exact})` when one is changed. */
export function prepareOptions(onChange) {
  const [label, k, exact] = [byId("label"), byId("k"), byId("exact")];
  let waiting;
  byId("options").addEventListener("submit", (event) => event.preventDefault());
  label.addEventListener("change", () => onChange({ label: label.value || null }));
  exact.addEventListener("change", () => onChange({ exact: exact.checked }));
  k.addEventListener("input", () => {
    byId("k-value").textContent = k.value;
    clearTimeout(waiting);
    waiting = setTimeout(() => onChange({ k: Number(k.value) }), TYPING_MS);
  });
}

/** Offer what the library has: its labels, its largest k, and "exact" only where there is another way. */
export function offerOptions({ labels, max_k, index }) {
  const select = byId("label");
  const chosen = select.value;
  const offered = labels.map(({ label, images }) => element("option", { value: label }, `${label} (${count(images)})`));
  select.replaceChildren(element("option", { value: "" }, "all labels"), ...offered);
  select.value = chosen;
  select.disabled = !labels.length;
  byId("k").max = max_k;
  byId("exact").disabled = index === "exact";
  byId("exact-option").title = index === "exact" ? "This library has no index: every search looks at all photos" : "";
}

/** Show the options of a route. */
export function showOptions({ label, k, exact }) {
  const select = byId("label");
  if (label !== null && ![...select.options].some(({ value }) => value === label)) {
    select.append(element("option", { value: label }, label)); // beyond the labels that the server lists
  }
  select.value = label ?? "";
  byId("k").value = k;
  byId("k-value").textContent = byId("k").value;
  byId("exact").checked = exact || byId("exact").disabled;
}
