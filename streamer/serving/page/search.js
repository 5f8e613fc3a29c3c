/** The search view: from a route to a question, from its answer to a grid. */

import { getImage, getRandom, searchById, searchByPicture } from "./api.js";
import { byId, element, photos } from "./dom.js";
import { fillGrid, moveByKeys, showBusy } from "./grid.js";
import { prepareOptions, showOptions } from "./options.js";
import { showInvitation, showPhoto, showUpload } from "./query.js";
import { amend, current, go } from "./route.js";
import { announce, clear, warn } from "./say.js";
import { withinLimit } from "./shrink.js";
import { clearTiming, noteTiming } from "./timing.js";
import { keep, upload } from "./uploads.js";
import { openViewer } from "./viewer.js";

const HANDFUL = 24;
const REMEMBERED = 50; // answers, for the back button

const answers = new Map();
let running = new AbortController();
let library;
let followGeneration;

/** Wire the view; `onGeneration(number)` is told the generation of each answer. */
export function prepareSearch(info, onGeneration) {
  library = info;
  followGeneration = onGeneration;
  prepareOptions((change) => go({ ...current(), ...change }, { replace: true }));
  moveByKeys(byId("results"));
  byId("handful").addEventListener("click", () => go({ ...blank(), seed: newSeed() }));
  return { show, stop: () => running.abort() };
}

/** Take note of another state of the library: what was answered before may be no longer so. */
export function renewLibrary(info) {
  library = info;
  answers.clear();
}

/** Search with a picture that came in; a note is shown with it. */
export function searchWith(blob, name, note = "") {
  go({ ...blank(), upload: keep(blob, name, note) });
}

/** Search from a photo of the library. */
export function searchFrom(id) {
  go({ ...blank(), id });
}

/** The route without a question, its options as they are. */
function blank() {
  const { label, k, exact } = current();
  return { label, k, exact };
}

const linkTo = ({ id }) => ({ ...blank(), id });

const newSeed = () => Math.floor(Math.random() * 1e6) + 1;

async function show(route) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  if (route.id === null && !upload(route.upload)) return showHandful(route, signal);
  showOptions(route);
  try {
    const answer = await ask(route, signal);
    if (signal.aborted) return;
    showAnswer(route, answer);
    followGeneration(answer.generation);
  } catch (error) {
    fail(error, signal, () => show(route));
  }
}

async function showHandful(route, signal) {
  if (route.upload !== null) warn("That picture is not kept when the page is loaded anew. Drop or choose it again.");
  const { label } = route;
  const seed = route.seed ?? newSeed();
  amend({ ...blank(), seed }); // so that the back button finds these photos again
  showInvitation();
  showOptions(route);
  clearTiming();
  try {
    const { images } = await remembered(`random ${seed} ${label}`, () => getRandom({ count: HANDFUL, seed, label }, signal));
    if (signal.aborted) return;
    head(label ? `Some photos of “${label}”` : "Some photos of the library", "Choose one to see what looks like it.");
    list(images, label ? `No photo has the label “${label}”. Choose another label above.` : emptyLibrary());
  } catch (error) {
    fail(error, signal, () => show(current()));
  }
}

async function ask(route, signal) {
  const { id, label, k, exact } = route;
  const options = { k: Math.min(k, library.max_k), exact, label };
  const key = `${id} ${route.upload} ${label} ${k} ${exact}`;
  const given = upload(route.upload);
  if (id !== null) {
    showPhoto(id, null);
    const named = remembered(`name ${id}`, () => getImage(id, signal)).then((image) => {
      if (!signal.aborted) showPhoto(id, image, () => openViewer([image], 0, linkTo));
    });
    const [answer] = await Promise.all([remembered(key, () => searchById(id, options, signal)), named]);
    return answer;
  }
  const { blob, note } = await withinLimit(given.blob, library.max_upload_bytes);
  if (!signal.aborted) showUpload(given, [given.note, note].filter(Boolean).join(" "));
  return remembered(key, () => searchByPicture(blob, options, signal));
}

/** The answer to a question; one that was asked lately is not asked again. */
async function remembered(question, get) {
  let answer = answers.get(question);
  if (!answer) {
    showBusy(byId("results"), HANDFUL);
    answer = await get();
    answers.set(question, answer);
    if (answers.size > REMEMBERED) answers.delete(answers.keys().next().value);
  }
  return answer;
}

function showAnswer(route, answer) {
  const { hits, timing_ms: ms } = answer;
  clear();
  noteTiming(`${route.id} ${route.upload} ${route.label} ${route.k}`, answer, library.index);
  const kind = route.label ? ` of “${route.label}”` : "";
  const parts = [["reading the picture", ms.decode], ["the network", ms.network], ["the search", ms.search]];
  const told = parts.filter(([, time]) => time > 0).map(([part, time]) => `${part} ${time.toFixed(1)}`);
  head(`${photos(hits.length)}${kind}, the most alike first`, `${ms.total.toFixed(1)} ms: ${told.join(", ")}`);
  list(hits, kind ? `No other photo has the label “${route.label}”. Choose another label above.` : emptyLibrary());
}

function list(images, ifEmpty) {
  fillGrid(byId("results"), images, { linkTo, onOpen: (place) => openViewer(images, place, linkTo) });
  byId("results-empty").hidden = images.length > 0;
  byId("results-empty").replaceChildren(element("p", {}, images.length ? "" : ifEmpty));
  if (!images.length) announce(ifEmpty);
}

function head(title, detail) {
  byId("results-title").textContent = title;
  byId("results-detail").textContent = detail;
  announce(title);
}

const emptyLibrary = () =>
  library.images > 1
    ? "Nothing was found. Try without a label."
    : "There are no photos here yet. “streamer run CONFIG” brings a folder of photos into the library; then reload this page.";

function fail(error, signal, retry) {
  if (signal.aborted) return;
  head("No photos to show", "");
  list([], "");
  clearTiming();
  warn(error.message, retry);
}
