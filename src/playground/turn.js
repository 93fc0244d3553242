// How a turn looks.

import { showMarkdown } from "./markdown.js";
import { make } from "./page.js";
import { problem } from "./problems.js";

/** The parts of an answer from the top down: each with the value that it shows, and the elements that show it. */
const PARTS = {
  thoughts: ({ thoughts }) => [thoughts, () => disclosed("Thoughts", make("p", { textContent: thoughts }))],
  tools: ({ tools }) => [
    tools,
    () => make("ul", { ariaLabel: "Tools" }, ...tools.map(({ name, status }) => make("li", {}, make("code", { textContent: name }), ` ${STATUS[status] ?? status}`))),
  ],
  passages: ({ passages }) => [
    passages,
    () =>
      disclosed(
        `${passages.length} ${passages.length === 1 ? "passage" : "passages"} from your files`,
        ...passages.map(({ name, content }) => make("blockquote", { textContent: `${name}: ${content}` })),
      ),
  ],
  said: null,
  sources: ({ sources }) => [
    sources,
    () =>
      make("div", {}, make("p", { className: "note", textContent: "Sources" }), make("ol", { ariaLabel: "Sources" }, ...sources.filter(({ url }) => /^https?:/i.test(url)).map(source))),
  ],
  warnings: ({ warnings }) => [warnings, () => make("p", { className: "note", textContent: warnings.join(" ") })],
  problem: ({ error }) => [error, () => problem(error)],
  foot: ({ foot }) => [foot, () => make("p", { className: "note", textContent: foot })],
};

const STATUS = { calling: "is being called …", done: "was called", failed: "failed" };

function disclosed(title, ...content) {
  return make("details", {}, make("summary", { textContent: title }), ...content);
}

function source({ url, title }) {
  return make("li", {}, make("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow", textContent: title || url }));
}

/** Creates the element of a turn. */
export function turnElement(turn) {
  const mine = turn.role === "user";
  const element = make("li", { className: `turn ${mine ? "mine" : "answer"}` }, make("p", { className: "who", textContent: mine ? "You" : turn.who }));
  if (!mine) {
    element.append(...Object.keys(PARTS).map((name) => make("div", { className: name })));
    element.querySelector(".problem").role = "alert";
    element.append(make("div", { className: "turn-actions" }));
    showAnswer(element, turn);
    return element;
  }
  const lost = turn.imagesLost ? `${turn.text}\n(A picture was too large to be kept over a reload.)` : turn.text;
  if (lost) element.append(make("div", { className: "said", textContent: lost }));
  const images = (turn.images ?? []).map((src, at) => make("img", { src, alt: `Your picture ${at + 1}` }));
  if (images.length) element.append(make("div", { className: "pictures" }, ...images));
  return element;
}

/** Shows what an answer has by now. */
export function showAnswer(element, turn) {
  const shown = (element.shown ??= {});
  for (const [name, part] of Object.entries(PARTS)) {
    const box = element.querySelector(`:scope > .${name}`);
    if (!part) {
      showMarkdown(box, turn.text);
      continue;
    }
    const [value, build] = part(turn);
    const key = JSON.stringify(value);
    box.hidden = !value || value.length === 0;
    if (shown[name] === key) continue;
    shown[name] = key;
    const isOpen = box.firstElementChild?.open;
    box.replaceChildren(...(box.hidden ? [] : [build()]));
    if (isOpen) box.firstElementChild.open = true;
  }
}
