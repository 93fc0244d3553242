// The conversation: its turns, what of them is sent, and keeping them over a reload.

/**
 * The turns. The user's: `{ role: "user", text, images }`. The model's: `{ role: "assistant", who, text }` and, if there
 * are any, `thoughts`, `tools` (`{ name, status }`), `warnings`, `passages` (`{ name, content }`), `sources`
 * (`{ url, title }`), `foot` (words below it) and `error` (`{ message, requestId }`).
 */
export const turns = [];

/** The files of this chat: `[{ id, name }]`. */
export const files = [];

/** The messages to send, in OpenAI's form: the turns up to the last question, to which passages of files are added. */
export function messages(prompt, found) {
  const question = turns.findLast(({ role }) => role === "user");
  // A question that was answered by an error alone is not repeated with the next one.
  const failed = (answer) => answer?.error && !answer.text;
  const sent = turns.filter((turn, at) => turn === question || (!isEmpty(turn) && !failed(turns[at + 1])));
  return [
    { role: "system", content: prompt },
    ...sent.map((turn) => ({
      role: turn.role,
      content: withImages(turn === question ? withPassages(turn.text, found) : turn.text, turn.images ?? []),
    })),
  ];
}

function isEmpty({ text, images }) {
  return !text.trim() && !images?.length;
}

function withImages(text, images) {
  if (images.length === 0) return text;
  return [{ type: "text", text }, ...images.map((url) => ({ type: "image_url", image_url: { url } }))];
}

/** A question with the passages that may answer it. */
function withPassages(question, found) {
  if (found.length === 0) return question;
  const sources = found.map(({ content }) => `<BEGIN SOURCE>\n${content}\n</END SOURCE>`);
  const words = "You may use the following sources to answer. If you do not know the answer, say so.";
  return [question, words, ...sources].join("\n\n");
}

/** Google's route takes Google's own messages. */
export function forGoogle(messages) {
  return messages.map(({ role, content }) => ({
    role: role === "assistant" ? "model" : "user",
    parts: [content].flat().map((part) => {
      const [, mimeType, data] = /^data:(.*?);base64,(.*)$/.exec(part.image_url?.url ?? "") ?? [];
      return data ? { inlineData: { mimeType, data } } : { text: part.text ?? part };
    }),
  }));
}

/** Keeps the conversation, and what else is given, for a reload of this tab; tells if it could. */
export function save(userId, more) {
  const kept = (turns) => JSON.stringify({ userId, turns, files, ...more });
  // Browsers give a page some five million characters, which pictures fill first.
  for (const some of [turns, turns.map(({ images, ...turn }) => ({ ...turn, imagesLost: images?.length }))]) {
    try {
      sessionStorage.setItem("chat", kept(some));
      return true;
    } catch {
      sessionStorage.removeItem("chat");
    }
  }
  return false;
}

/** Takes up what was kept for this user, and returns the rest of it. */
export function restore(userId) {
  const kept = JSON.parse(sessionStorage.getItem("chat"));
  const own = kept?.userId === userId ? kept : { turns: [], files: [] };
  turns.splice(0, turns.length, ...own.turns);
  files.splice(0, files.length, ...own.files);
  return own;
}

/** Forgets the conversation. */
export function forget() {
  turns.length = files.length = 0;
  sessionStorage.removeItem("chat");
}
