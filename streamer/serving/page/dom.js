/** Elements, built in one expression. Text stays text: nothing here takes markup. */

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; attributes that are null or false are left out, true is an empty one. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** One of the pictures of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** 3134 -> "3,134", in the way of the reader's country. */
export const count = (number) => number.toLocaleString();

/** "1 photo", "3,134 photos". */
export const photos = (number) => `${count(number)} ${number === 1 ? "photo" : "photos"}`;

/** 20971520 -> "20 MB". */
export function megabytes(bytes) {
  const size = bytes / 2 ** 20;
  return size < 1 ? `${Math.max(1, Math.round(bytes / 1024))} kB` : `${size < 10 ? size.toFixed(1) : Math.round(size)} MB`;
}

/** The file's name of a key such as "cats/tom.jpg". */
export const fileName = (key) => key.slice(key.lastIndexOf("/") + 1);
