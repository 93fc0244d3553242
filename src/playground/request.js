// What requests to this server and to Supabase have in common.

/** The options of a POST with JSON. */
export function json(body) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

/** `fetch`, with an error whose message can be shown, from this server or Supabase; this server's has a `requestId`. */
export async function reach(url, options) {
  const response = await fetch(url, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The server cannot be reached");
  });
  if (response.ok) return response;
  const text = await response.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // Another server's HTML page, or plain text, which is shown unchanged.
    if (text.length < 200 && !text.startsWith("<")) body.message = text;
  }
  const message = body.message || body.msg || body.error_description || `The server answered with status ${response.status}`;
  throw Object.assign(new Error(message), { status: response.status, requestId: response.headers.get("x-request-id") });
}
