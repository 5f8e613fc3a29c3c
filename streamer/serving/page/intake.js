/** The ways a picture comes in: dropped, pasted, chosen or taken by a phone. */

import { byId } from "./dom.js";
import { warn } from "./say.js";

const OWN_PHOTO = /\/api\/images\/(\d+)(?:\/|$)/;

/** Call `onPicture(blob, name, note)` for each picture that comes in, `onPhoto(id)` for a photo dragged off this page. */
export function listen({ onPicture, onPhoto }) {
  const take = (files) => {
    const file = pictureOf(files);
    const note = files.length > 1 ? `One of ${files.length} files: pictures are searched with one at a time.` : "";
    if (file) onPicture(file, file.name, note);
  };
  for (const id of ["file", "capture"]) {
    byId(id).addEventListener("change", ({ target }) => {
      if (target.files.length) take(target.files);
      target.value = ""; // the same file may be chosen again
    });
  }
  byId("choose").addEventListener("click", () => byId("file").click());
  addEventListener("paste", ({ clipboardData, target }) => {
    if (clipboardData.files.length) take(clipboardData.files);
    else if (!target.closest?.("input:not([type=range]), textarea")) {
      warn("There is no picture on the clipboard. Copy a picture, not its address, and paste again.");
    }
  });
  listenForDrops(take, onPhoto);
}

function listenForDrops(take, onPhoto) {
  const overlay = byId("drop");
  let hiding;
  const show = (event) => {
    if (!carriesPicture(event.dataTransfer)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    clearTimeout(hiding);
    overlay.hidden = false;
    hiding = setTimeout(hide, 400); // dragover comes several times a second while the picture is held
  };
  const hide = () => {
    clearTimeout(hiding);
    overlay.hidden = true;
  };
  addEventListener("dragenter", show);
  addEventListener("dragover", show);
  addEventListener("drop", (event) => {
    if (!carriesPicture(event.dataTransfer)) return;
    event.preventDefault();
    hide();
    const own = ownPhoto(event.dataTransfer);
    if (own !== null) onPhoto(own);
    else if (event.dataTransfer.files.length) take(event.dataTransfer.files);
    else warn("Only files can be dropped here. Save the picture first, then drop its file, or copy and paste it.");
  });
}

const carriesPicture = ({ types }) => types.includes("Files") || types.includes("text/uri-list");

function ownPhoto(transfer) {
  const address = transfer.getData("text/uri-list");
  if (!address.startsWith(`${location.origin}/`)) return null;
  const id = OWN_PHOTO.exec(address)?.[1] ?? new URLSearchParams(new URL(address).hash.slice(1)).get("id");
  return id === null ? null : Number(id);
}

function pictureOf(files) {
  const pictures = [...files].filter(({ type }) => type === "" || type.startsWith("image/"));
  if (!pictures.length) {
    warn(`“${files[0].name}” is not a picture. JPEG, PNG, WebP, GIF, TIFF and AVIF files can be searched with.`);
    return null;
  }
  if (!pictures[0].size) {
    warn(`“${pictures[0].name}” is an empty file, or a folder. Choose a picture in it.`);
    return null;
  }
  return pictures[0];
}
