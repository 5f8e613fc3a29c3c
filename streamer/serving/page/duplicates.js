/** The duplicates view: groups of photos that are nearly the same, by a threshold. */

import { getDuplicates } from "./api.js";
import { byId, element, photos } from "./dom.js";
import { fillGrid, moveByKeys, showBusy } from "./grid.js";
import { current, go } from "./route.js";
import { clear, warn } from "./say.js";
import { openViewer } from "./viewer.js";

const GROUPS = 100;

let running = new AbortController();

/** Build the view; `show(route)` fills it. */
export function prepare() {
  const slider = element("input", { id: "threshold", type: "range", min: 0.8, max: 1, step: 0.005 });
  const value = element("output", { id: "threshold-value", for: "threshold" });
  slider.addEventListener("input", () => (value.textContent = Number(slider.value).toFixed(3)));
  slider.addEventListener("change", () => go({ ...current(), threshold: Number(slider.value) }, { replace: true }));
  byId("view-duplicates").append(
    element(
      "div",
      { class: "panel query" },
      element(
        "div",
        { class: "query-text" },
        element("h1", { id: "duplicates-title", tabindex: "-1" }, "Photos that are nearly the same"),
        element("p", { class: "muted" }, "The same photo in another size, crop or format, and bursts of one scene."),
      ),
      element(
        "div",
        { class: "options" },
        element("label", { class: "option", for: "threshold" }, element("span", {}, "Alike from a score of ", value), slider),
      ),
    ),
    element("p", { id: "duplicates-status", class: "heading muted", role: "status" }),
    element("div", { id: "groups" }),
  );
  return { show, stop: () => running.abort() };
}

async function show(route) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const { threshold } = route;
  byId("threshold").value = threshold;
  byId("threshold-value").textContent = threshold.toFixed(3);
  say("Comparing the photos with each other…");
  byId("groups").setAttribute("aria-busy", "true");
  if (!byId("groups").childElementCount) showWaiting();
  try {
    let answer = null;
    while (answer === null) answer = await getDuplicates({ threshold, limit: GROUPS }, signal);
    clear();
    showGroups(answer.groups);
    say(summary(answer, threshold));
  } catch (error) {
    if (signal.aborted) return;
    say("");
    byId("groups").replaceChildren();
    warn(error.message, () => show(route));
  } finally {
    if (!signal.aborted) byId("groups").removeAttribute("aria-busy");
  }
}

function showGroups(groups) {
  byId("groups").replaceChildren(
    ...groups.map(({ images }, place) => {
      const list = element("ol", { class: "grid small", role: "list", "aria-labelledby": `group-${place}` });
      const linkTo = ({ id }) => ({ id });
      fillGrid(list, images, { linkTo, onOpen: (at) => openViewer(images, at, linkTo) });
      moveByKeys(list);
      return element("section", { class: "group" }, element("h2", { id: `group-${place}` }, photos(images.length)), list);
    }),
  );
}

/** Boxes in the place of the first group. */
function showWaiting() {
  const list = element("ol", { class: "grid small" });
  showBusy(list, 8);
  byId("groups").replaceChildren(list);
}

function summary({ groups, complete }, threshold) {
  if (!groups.length) return `No two photos are as alike as ${threshold.toFixed(3)}. Lower the threshold to see looser groups.`;
  const many = `${groups.length} ${groups.length === 1 ? "group" : "groups"}`;
  return complete ? `${many}, the largest first.` : `The first ${many}; there are more. Raise the threshold to see fewer.`;
}

function say(message) {
  byId("duplicates-status").textContent = message;
}
