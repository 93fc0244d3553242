// What went wrong, shown where it did.

import { make, page } from "./page.js";

/** What went wrong, with the request's id, by which the server's log has more about it. */
export function problem({ message, requestId }) {
  const words = [make("p", { textContent: message })];
  if (requestId) words.push(make("p", { className: "request-id" }, "Request ", make("code", { textContent: requestId })));
  return make("div", { className: "problem" }, ...words);
}

/** Shows an error next to what caused it. */
export function complain(place, error) {
  page[place].replaceChildren(problem(error));
}

export function clearComplaints() {
  for (const place of ["sign-in-error", "choice-error", "composer-error"]) page[place].replaceChildren();
}

/** Runs an action that may fail, with its button disabled meanwhile. */
export async function attempt(button, place, work) {
  clearComplaints();
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    complain(place, error);
  } finally {
    button.disabled = false;
  }
}
