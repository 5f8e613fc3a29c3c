/** How long the two ways of searching took for the same question, and whether they agree. */

import { byId, element } from "./dom.js";

let question = null;
let answers = {};

/** Note an answer to a question and show it beside that of the other way, where that was asked too.
 *
 * `kind` is the library's index; one of kind "exact" has no other way.
 */
export function noteTiming(asked, answer, kind) {
  if (asked !== question) answers = {};
  question = asked;
  answers[answer.exact ? "exact" : "approximate"] = answer;
  draw(kind);
}

/** Forget: there is no search on the page. */
export function clearTiming() {
  question = null;
  answers = {};
  byId("timing").replaceChildren();
}

function draw(kind) {
  const { exact, approximate } = answers;
  const longest = Math.max(...[exact, approximate].map((answer) => answer?.timing_ms.search ?? 0));
  const rows = [row("Exact", exact, longest)];
  if (kind !== "exact") rows.unshift(row(`Approximate (${kind})`, approximate, longest));
  if (exact && approximate) {
    rows.push(element("div", { class: "agreement" }, element("dt", {}, "The same photos"), element("dd", {}, agreement())));
  }
  byId("timing").replaceChildren(...rows);
}

function row(name, answer, longest) {
  const time = answer ? `${answer.timing_ms.search.toFixed(1)} ms` : "not asked";
  const line = element("div", { "data-way": name.split(" ")[0].toLowerCase() }, element("dt", {}, name), element("dd", {}, time));
  line.style.setProperty("--share", answer ? answer.timing_ms.search / Math.max(longest, 1e-9) : 0);
  return line;
}

function agreement() {
  const found = new Set(answers.approximate.hits.map(({ id }) => id));
  const same = answers.exact.hits.filter(({ id }) => found.has(id)).length;
  return `${same} of ${answers.exact.hits.length}`;
}
