/** The server's answers. A refusal, or no answer, is an Error whose message is for people and says what to do next. */

const RETRIES = 3;
const LONGEST_WAIT_S = 5;

/** What the library is: its name, size, labels, limits. */
export const getInfo = (signal) => json("/api/info", { signal });

/** Some photos drawn by a seed, of one label or of all. */
export const getRandom = ({ count, seed, label }, signal) =>
  json(`/api/random?${parameters({ count, seed, label })}`, { signal });

/** The name, label and size of one photo. */
export const getImage = (id, signal) => json(`/api/images/${id}/info`, { signal });

/** The photos most like one of the library. */
export const searchById = (id, options, signal) =>
  json(`/api/search?${parameters(options)}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ id }),
    signal,
  });

/** The photos most like a picture that is sent. */
export const searchByPicture = (blob, options, signal) =>
  json(`/api/search?${parameters(options)}`, {
    method: "POST",
    headers: { "Content-Type": blob.type.startsWith("image/") ? blob.type : "application/octet-stream" },
    body: blob,
    signal,
  });

/** Groups of near-duplicates; null while the server works them out, to be asked for again. */
export async function getDuplicates({ threshold, limit }, signal) {
  const response = await call(`/api/duplicates?${parameters({ threshold, limit })}`, { signal });
  if (response.status !== 202) return response.json();
  await pause(waitOf(response), signal);
  return null;
}

/** The bytes of the map, what is to be added to its ids, and how many photos there are in all. */
export async function getMap(signal) {
  const response = await call("/api/map", { signal });
  const header = (name) => Number(response.headers.get(name));
  return { bytes: await response.arrayBuffer(), idsFrom: header("X-Ids-From"), total: header("X-Images-Total") };
}

export const photoUrl = (id) => `/api/images/${id}`;
export const thumbUrl = (id) => `/api/images/${id}/thumb`;

async function json(path, options) {
  return (await call(path, options)).json();
}

async function call(path, options) {
  for (let attempt = 0; ; attempt++) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. See whether “streamer serve” is still running, then try again.");
    }
    if (response.ok) return response;
    if (response.status !== 503 || attempt === RETRIES) throw await refusal(response);
    await pause(waitOf(response), options.signal);
  }
}

async function refusal(response) {
  const { message = "", id = "" } = (await response.json().catch(() => ({}))).error ?? {};
  return new Error(plain(response.status, message, id));
}

function plain(status, message, id) {
  const said = sentence(message);
  switch (status) {
    case 401:
      return "This page needs its token. Open the address that “streamer serve” printed, the one with ?token= in it.";
    case 403:
    case 421:
      return "The server does not know this page by that name. Open the address that “streamer serve” printed.";
    case 404:
    case 410:
      return "That photo is no longer in the library. Go back, or start from another one.";
    case 408:
      return "Reading the picture took too long. Try a smaller copy of it.";
    case 413:
      return `${said || "The picture is too large."} Try a smaller copy of it.`;
    case 415:
      return `${said || "That is not a picture."} JPEG, PNG, WebP, GIF, TIFF and AVIF files can be searched with.`;
    case 422:
      return `${said || "The picture cannot be read."} Choose another one, or a copy of it as JPEG or PNG.`;
    case 503:
      return "The server has too much to do at the moment. Try again in a few seconds.";
    default:
      if (status < 500) return said || `The server refused this (${status}). Reload the page and try again.`;
      return `Something went wrong in the server${id ? `; its log says more under ${id}` : ""}. Try again.`;
  }
}

/** "the picture is empty" -> "The picture is empty." */
function sentence(message) {
  if (!message) return "";
  return message[0].toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? "" : ".");
}

function parameters(values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined);
  return new URLSearchParams(given);
}

function waitOf(response) {
  return Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_WAIT_S);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
