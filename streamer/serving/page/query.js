/** What is searched for: the panel with its picture, name and size. */

import { thumbUrl } from "./api.js";
import { byId, element, fileName, icon } from "./dom.js";

/** No question yet: say how to ask one. */
export function showInvitation() {
  put(icon("picture"), "Find photos that look alike", "Drop a picture anywhere on this page, paste one, or begin with a photo below.");
}

/** A photo of the library; `image` is null until its name is known, `onOpen()` shows it in full. */
export function showPhoto(id, image, onOpen) {
  const picture = element(
    "button",
    { type: "button", "aria-label": "Show the photo in full", title: "Full size", click: onOpen },
    element("img", { src: thumbUrl(id), alt: "", width: 256, height: 256 }),
  );
  put(picture, image ? fileName(image.key) : "A photo of the library", image ? place(image) : "", true);
}

/** "cats/tom.jpg", with the label before it where no folder is called so. */
function place({ key, label }) {
  return label === null || key.split("/").includes(label) ? key : `${label} · ${key}`;
}

/** A picture that came in; formats that the browser cannot show get a sign in its place. */
export function showUpload({ url, name }, note) {
  const picture = element("img", { src: url, alt: "", error: ({ target }) => target.replaceWith(icon("picture")) });
  put(picture, name || "Your picture", note || "Your picture. It is searched with, and not kept.", true);
}

function put(picture, title, detail, asked = false) {
  const frame = byId("query-picture");
  frame.replaceChildren(picture);
  frame.classList.toggle("asked", asked);
  byId("query-title").textContent = title;
  byId("query-detail").textContent = detail;
}
