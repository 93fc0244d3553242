// The page's elements, and making more of them.

/** The elements by their ids. */
export const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));

/** Creates an element. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Copies a text; where the browser gives no clipboard, as over HTTP from another machine, by a selection. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = make("textarea", { value: text, className: "unseen", ariaHidden: "true" });
    const focused = document.activeElement;
    document.body.append(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return isCopied;
  }
}

/** Runs `work` at most once a frame, and a long one for a fifth of the time at most; `end` gives up what is to come. */
export function throttled(work) {
  let next = null;
  let notBefore = 0;
  const run = () => {
    next = null;
    const began = performance.now();
    work();
    notBefore = performance.now() + 4 * (performance.now() - began);
  };
  const soon = () => (next ??= setTimeout(() => requestAnimationFrame(() => next !== null && run()), notBefore - performance.now()));
  soon.end = () => {
    clearTimeout(next);
    next = null;
  };
  return soon;
}
