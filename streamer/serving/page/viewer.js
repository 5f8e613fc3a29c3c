/** One photo in full, in a dialog: arrow keys and swipes go on to the next, Escape closes. */

import { getImage, photoUrl, thumbUrl } from "./api.js";
import { byId, fileName, megabytes } from "./dom.js";
import { format } from "./route.js";

const SWIPE_PIXELS = 50;

let images = [];
let place = 0;
let linkTo;
let details = new AbortController();

/** Show the photo at a place of a list; `link(image)` is the route of its "search from it". */
export function openViewer(list, at, link) {
  [images, linkTo] = [list, link];
  byId("viewer").showModal();
  show(at);
  byId("viewer-title").focus();
}

/** Close it, where it is open: another view is asked for. */
export const closeViewer = () => byId("viewer").close();

/** Wire the dialog's buttons, keys and swipes; once. */
export function prepareViewer() {
  const [dialog, stage, image] = [byId("viewer"), byId("viewer-stage"), byId("viewer-image")];
  byId("viewer-close").addEventListener("click", () => dialog.close());
  byId("viewer-back").addEventListener("click", () => show(place - 1));
  byId("viewer-forward").addEventListener("click", () => show(place + 1));
  dialog.addEventListener("close", () => {
    details.abort();
    image.removeAttribute("src");
  });
  dialog.addEventListener("keydown", ({ key }) => {
    if (key === "ArrowLeft") show(place - 1);
    if (key === "ArrowRight") show(place + 1);
  });
  stage.addEventListener("click", ({ target }) => target === stage && dialog.close());
  let startX = 0;
  stage.addEventListener("touchstart", ({ touches }) => (startX = touches.length === 1 ? touches[0].clientX : NaN), {
    passive: true,
  });
  stage.addEventListener("touchend", ({ changedTouches }) => {
    const moved = changedTouches[0].clientX - startX;
    if (Math.abs(moved) > SWIPE_PIXELS) show(place - Math.sign(moved));
  });
  image.addEventListener("load", () => image.classList.remove("small"));
  image.addEventListener("error", () => {
    image.hidden = true;
    byId("viewer-fault").textContent = "This photo's file is gone, or cannot be read any more. “streamer run” will notice.";
  });
}

function show(at) {
  if (!images[at]) return;
  place = at;
  const { id, key, label } = images[at];
  const image = byId("viewer-image");
  byId("viewer-fault").textContent = "";
  byId("viewer-title").textContent = fileName(key);
  byId("viewer-search").setAttribute("href", format(linkTo(images[at])));
  byId("viewer-back").disabled = at === 0;
  byId("viewer-forward").disabled = at === images.length - 1;
  // The thumbnail is there already: it stands in, blurred by its size, until the photo itself has come.
  image.style.backgroundImage = `url("${thumbUrl(id)}")`;
  image.hidden = false;
  image.alt = label ? `${label}: ${key}` : key;
  image.src = photoUrl(id);
  for (const near of [images[at + 1], images[at - 1]]) if (near) new Image().src = photoUrl(near.id);
  describe(images[at], at);
}

async function describe({ id, key, label, score }, at) {
  details.abort();
  details = new AbortController();
  const known = [`${at + 1} of ${images.length}`, label, typeof score === "number" && `score ${score.toFixed(3)}`, key];
  const line = byId("viewer-detail");
  line.textContent = known.filter(Boolean).join(" · ");
  try {
    const { width, height, bytes } = await getImage(id, details.signal);
    if (width && height) known.push(`${width} × ${height} pixels`);
    if (bytes) known.push(megabytes(bytes));
    line.textContent = known.filter(Boolean).join(" · ");
  } catch {
    // The photo's own fault is told in its place; without the details the line is only shorter.
  }
}
