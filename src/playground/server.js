// This server's part of the example: its routes, and reading an answer's events.

import { json, reach } from "./request.js";
import { accessToken } from "./supabase.js";

/**
 * Posts a chat and calls `on[event](data)` for each event of the answer: `delta`, `reasoning`, `tool`, `warning`,
 * `sources`, `usage` and `done`. An answer that fails is an error, also after its beginning.
 */
export async function chat(path, request, signal, on) {
  const options = { ...json(request), signal };
  options.headers.Accept = "text/event-stream";
  const response = await api(`/api/chat/${path}`, options);
  const requestId = response.headers.get("x-request-id");
  try {
    for await (const { event, data } of events(response.body)) {
      if (event === "error") throw new Error(data.message);
      on[event]?.(data);
      if (event === "done") return;
    }
    // The connection ended before the answer did: half an answer must not be taken for a whole one.
    throw new TypeError();
  } catch (error) {
    if (error instanceof TypeError && !signal.aborted) error = new Error("The answer was cut off");
    throw Object.assign(error, { requestId });
  }
}

/** Reads a `text/event-stream` with JSON in it. */
async function* events(body) {
  // Keeps the first bytes of a character until the rest arrives.
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (unread + value).split("\n\n");
    unread = blocks.pop();
    for (const block of blocks) {
      const field = (name) =>
        block
          .split("\n")
          .filter((line) => line.startsWith(`${name}:`))
          .map((line) => line.slice(name.length + 1).replace(/^ /, ""))
          .join("\n");
      // A block of comments is a heartbeat.
      if (field("data")) yield { event: field("event"), data: JSON.parse(field("data")) };
    }
  }
}

/** Processes an uploaded file into passages. */
export async function processFile(id, embeddingsProvider) {
  const form = new FormData();
  form.append("file_id", id);
  form.append("embeddingsProvider", embeddingsProvider);
  await api("/api/retrieval/process", { method: "POST", body: form });
}

/** The passages of these files that are nearest to a question. */
export async function passages(userInput, fileIds, embeddingsProvider, signal) {
  const request = { userInput, fileIds, embeddingsProvider, sourceCount: 4 };
  const response = await api("/api/retrieval/retrieve", { ...json(request), signal });
  return (await response.json()).results;
}

/** What the user has used today and this month, and what is left of budgets. */
export async function usage() {
  return (await api("/api/usage", {})).json();
}

/** Returns the keys that the server has, by provider; the others are in the user's profile. */
export async function serverKeys() {
  const response = await reach("/api/keys", {});
  return (await response.json()).isUsingEnvKeyMap;
}

/** The models that are served today, by provider; with prices, and whether they take images. */
export async function currentModels() {
  return (await reach("/playground/models.json", {})).json();
}

async function api(path, options) {
  const headers = { ...options.headers, Authorization: `Bearer ${await accessToken()}` };
  return reach(path, { ...options, headers });
}
