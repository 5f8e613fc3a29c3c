/** Where the reader is, kept in the address: "#id=12&k=50" is a search, and the back button goes to the one before. */

const DEFAULTS = { view: "search", id: null, upload: null, seed: null, label: null, k: 20, exact: false, threshold: 0.97 };

const READ = {
  view: (text) => (["map", "duplicates"].includes(text) ? text : "search"),
  id: whole,
  upload: whole,
  seed: whole,
  label: (text) => text || null,
  k: (text) => whole(text) || DEFAULTS.k,
  exact: (text) => text === "true",
  threshold: (text) => Math.min(1, Math.max(0.5, Number(text) || DEFAULTS.threshold)),
};

function whole(text) {
  return /^\d{1,15}$/.test(text) ? Number(text) : null;
}

let listen = () => {};

/** The route that an address names; what it does not name is as by default. */
function parse(hash) {
  const route = { ...DEFAULTS };
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (name in READ) route[name] = READ[name](text);
  }
  return route;
}

/** The address of a route, such as "#id=12". */
export function format(route) {
  const named = Object.keys(DEFAULTS).filter((name) => (route[name] ?? null) !== null && route[name] !== DEFAULTS[name]);
  return `#${new URLSearchParams(named.map((name) => [name, route[name]]))}`;
}

/** The route of the address bar. */
export const current = () => parse(location.hash);

/** Name a route in the address bar that is shown already. */
export const amend = (route) => history.replaceState(history.state, "", format(route));

/** Go to a route. `replace` keeps the back button where it is: for a change of options. */
export function go(route, { replace = false } = {}) {
  if (replace) amend(route);
  else {
    remember();
    history.pushState(null, "", format(route));
  }
  listen(current(), { scroll: replace ? null : 0, moved: !replace });
}

/** Call `show(route, {scroll, moved})` now and for every route from here on; `scroll` is where the page was then. */
export function start(show) {
  listen = show;
  history.scrollRestoration = "manual";
  document.addEventListener("click", remember, true);
  addEventListener("popstate", () => show(current(), { scroll: history.state?.scroll ?? 0, moved: true }));
  return show(current(), { scroll: history.state?.scroll ?? null, moved: false });
}

function remember() {
  history.replaceState({ scroll: scrollY }, "");
}
