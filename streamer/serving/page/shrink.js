/** Make a picture small enough to be sent, where it is not. */

import { megabytes } from "./dom.js";

const LONG_SIDE_PIXELS = 1600; // networks look at 224 or 299
const JPEG_QUALITY = 0.92;

/** The picture itself up to the limit, above it a smaller JPEG: `{blob, note}`, the note saying so.
 *
 * Throws an Error for people where the browser cannot read the picture.
 */
export async function withinLimit(blob, limitBytes) {
  if (blob.size <= limitBytes) return { blob, note: "" };
  const sizes = `${megabytes(blob.size)}, and the server takes ${megabytes(limitBytes)}`;
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Error(`The picture has ${sizes}; this browser cannot make it smaller. Send a smaller copy, as JPEG or PNG.`);
  }
  const scale = Math.min(1, LONG_SIDE_PIXELS / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const smaller = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
  return { blob: smaller, note: `It has ${sizes}: a copy of ${canvas.width} × ${canvas.height} pixels was sent.` };
}
