/** Take a picture: by the phone's own camera app, or by a webcam in a dialog. */

import { byId } from "./dom.js";
import { warn } from "./say.js";

/** Show the button where there is a camera; call `onPicture(blob, name)` with each picture taken. */
export async function offerCamera(onPicture) {
  const button = byId("camera");
  const phone = matchMedia("(pointer: coarse)").matches;
  if (!phone && !(await hasWebcam())) return;
  button.hidden = false;
  button.addEventListener("click", () => (phone ? byId("capture").click() : open()));
  prepare(onPicture);
}

/** Browsers hand out cameras to 127.0.0.1 and https only; elsewhere there is no mediaDevices. */
async function hasWebcam() {
  const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
  return devices.some(({ kind }) => kind === "videoinput");
}

async function open() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  } catch (error) {
    warn(
      error.name === "NotAllowedError"
        ? "This page may not use the camera. Allow it in the browser's address bar, or choose a picture instead."
        : "The camera gives no picture; another program may hold it. Close that, or choose a picture instead.",
    );
    return;
  }
  const video = byId("camera-video");
  video.srcObject = stream;
  byId("camera-dialog").showModal();
  await video.play();
}

function prepare(onPicture) {
  const [dialog, video] = [byId("camera-dialog"), byId("camera-video")];
  dialog.addEventListener("close", () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  });
  byId("camera-cancel").addEventListener("click", () => dialog.close());
  byId("camera-take").addEventListener("click", () => {
    if (!video.videoWidth) return; // no frame yet
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => onPicture(blob, "your picture"), "image/jpeg", 0.92);
    dialog.close();
  });
}
