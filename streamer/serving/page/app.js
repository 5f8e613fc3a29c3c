/** Start the page: what the library is, the views, and which of them the address names. */

import { getInfo } from "./api.js";
import { offerCamera } from "./camera.js";
import { byId, photos } from "./dom.js";
import { listen } from "./intake.js";
import { offerOptions } from "./options.js";
import { start } from "./route.js";
import { clear, warn } from "./say.js";
import { prepareSearch, renewLibrary, searchFrom, searchWith } from "./search.js";
import { closeViewer, prepareViewer } from "./viewer.js";

const views = {};
let info;
let shown = null;
let turn = 0;

async function main() {
  try {
    info = await getInfo();
  } catch (error) {
    warn(error.message, main);
    return;
  }
  describeLibrary();
  views.search = prepareSearch(info, followGeneration);
  prepareViewer();
  listen({ onPicture: searchWith, onPhoto: searchFrom });
  offerCamera(searchWith);
  byId("skip").addEventListener("click", () => byId("results-title").focus());
  await start(show);
}

async function show(route, { scroll, moved }) {
  const mine = ++turn;
  if (moved) {
    clear();
    closeViewer();
  }
  if (shown !== route.view) {
    views[shown]?.stop();
    shown = route.view;
    for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== `view-${shown}`;
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  views[route.view] ??= await load(route.view);
  await views[route.view].show(route);
  if (mine !== turn) return; // another was asked for meanwhile
  document.title = `${byId(titleOf(route)).textContent} · ${info.name}`;
  if (scroll !== null) scrollTo(0, scroll);
  // The card that was followed is gone, and the focus with it: readers go on at the new photos.
  if (moved && document.activeElement === document.body) {
    byId(route.view === "search" ? "results-title" : titleOf(route)).focus({ preventScroll: true });
  }
}

const titleOf = ({ view, id, upload }) => {
  if (view !== "search") return `${view}-title`;
  return id === null && upload === null ? "results-title" : "query-title";
};

/** Views beside the search are loaded when they are first opened. */
async function load(view) {
  const { prepare } = await import(view === "map" ? "./map.js" : "./duplicates.js");
  return prepare(info);
}

function describeLibrary() {
  byId("library").textContent = info.name;
  byId("library-size").textContent = photos(info.images);
  offerOptions(info);
}

/** The library was indexed anew while the page was open: ask for its labels and size again. */
async function followGeneration(generation) {
  if (generation === info.generation) return;
  info = await getInfo().catch(() => info);
  describeLibrary();
  renewLibrary(info);
}

main();
