/** Pictures that were dropped, pasted or taken: kept for the back button, the last few only, and never stored. */

const KEPT = 8;

const uploads = new Map();
let last = Date.now(); // no number comes twice: an address of before a reload finds nothing

/** Keep a picture and return its number. */
export function keep(blob, name, note) {
  uploads.set(++last, { blob, name, note, url: URL.createObjectURL(blob) });
  for (const [number, { url }] of uploads) {
    if (number > last - KEPT) break;
    URL.revokeObjectURL(url);
    uploads.delete(number);
  }
  return last;
}

/** The picture `{blob, name, note, url}` of a number, or undefined: the page was loaded anew since. */
export const upload = (number) => uploads.get(number);
