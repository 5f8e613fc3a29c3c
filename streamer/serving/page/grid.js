/** Photos as a grid of cards: a link that searches from each, and a button that shows it in full. */

import { thumbUrl } from "./api.js";
import { element, fileName, icon } from "./dom.js";
import { format } from "./route.js";

const FIRST_ROWS = 12; // loaded at once; the others as they come near

/** Fill a list with cards. `linkTo(image)` is the route of a card; `onOpen(place)` shows one in full. */
export function fillGrid(list, images, { linkTo, onOpen }) {
  list.removeAttribute("aria-busy");
  list.replaceChildren(...images.map((image, place) => card(image, place, linkTo, onOpen)));
}

/** Say that other photos are on their way: those that are there fade, an empty list shows boxes. */
export function showBusy(list, expected) {
  list.setAttribute("aria-busy", "true");
  if (list.childElementCount) return;
  const box = () => element("li", { class: "card waiting", "aria-hidden": "true" }, element("div", { class: "frame" }));
  list.replaceChildren(...Array.from({ length: Math.min(expected, 24) }, box));
}

/** Move between the cards of a list by the arrow keys, Home and End. */
export function moveByKeys(list) {
  list.addEventListener("keydown", (event) => {
    const links = [...list.querySelectorAll(".frame[href]")];
    const place = links.indexOf(document.activeElement);
    if (place < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns(links),
      ArrowDown: columns(links),
      Home: -place,
      End: links.length - 1 - place,
    }[event.key];
    if (step === undefined || !links[place + step]) return;
    event.preventDefault();
    links[place + step].focus();
  });
}

function columns(links) {
  const { offsetTop } = links[0].parentElement;
  const next = links.findIndex((link) => link.parentElement.offsetTop !== offsetTop);
  return next < 0 ? links.length : next;
}

function card(image, place, linkTo, onOpen) {
  const name = fileName(image.key);
  const scored = typeof image.score === "number";
  const said = [`Photos like ${name}`, image.label, scored && `score ${image.score.toFixed(2)}`];
  const picture = element("img", {
    src: thumbUrl(image.id),
    alt: "",
    width: 256,
    height: 256,
    loading: place < FIRST_ROWS ? "eager" : "lazy",
    decoding: "async",
    load: ({ target }) => target.classList.add("loaded"),
    error: ({ target }) => target.replaceWith(element("span", { class: "gone" }, "This file is gone")),
  });
  const link = element(
    "a",
    { class: "frame", href: format(linkTo(image)), "aria-label": said.filter(Boolean).join(", "), title: image.key },
    picture,
  );
  const caption = element(
    "p",
    { class: "caption", "aria-hidden": "true" },
    element("span", { class: "label" }, image.label ?? name),
    scored ? element("span", { class: "score" }, image.score.toFixed(3)) : null,
  );
  const full = element(
    "button",
    { type: "button", class: "full round", "aria-label": `Show ${name} in full`, title: "Full size", click: () => onOpen(place) },
    icon("expand"),
  );
  return element("li", { class: "card", "data-id": image.id }, link, full, caption);
}
