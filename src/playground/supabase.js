// Supabase's part of the example: signing in, tables, storage.

import { json, reach } from "./request.js";

/** What the server says of itself: the project's address and public key, and the demo's user if it is the demo. */
export const settings = await fetch("/playground/settings.json").then((response) => response.json());

/** The session as Supabase gave it: tokens, their time, the user. It ends with the tab. */
let session = JSON.parse(sessionStorage.getItem("session"));
let refreshing = null;
let whenEnded = () => {};

/** Returns the signed-in user, or `null`. */
export function user() {
  return session?.user ?? null;
}

/** Has a function called when the session turns out to have ended. */
export function onEnd(listener) {
  whenEnded = listener;
}

function keep(newSession) {
  session = newSession;
  if (session) sessionStorage.setItem("session", JSON.stringify(session));
  else sessionStorage.removeItem("session");
}

export async function signIn(email, password) {
  keep(await supabase("/auth/v1/token?grant_type=password", json({ email, password })));
}

/** Ends the session at Supabase if it can be reached, and in this page in any case. */
export async function signOut() {
  try {
    await supabase("/auth/v1/logout", { method: "POST" }, await accessToken());
  } finally {
    keep(null);
  }
}

/** Returns the access token; refreshes it first, once for all callers, if it has less than a minute left. */
export async function accessToken() {
  if (!session) throw new Error("You are signed out: please sign in again");
  if (session.expires_at - Date.now() / 1000 < 60) {
    const { refresh_token } = session;
    refreshing ??= supabase("/auth/v1/token?grant_type=refresh_token", json({ refresh_token }))
      .then(keep, (error) => {
        // Refused rather than unreachable: the session has ended.
        if (error.status) {
          keep(null);
          whenEnded();
        }
        throw error;
      })
      .finally(() => (refreshing = null));
    await refreshing;
  }
  return session.access_token;
}

/** Puts a file into the user's folder in storage and its row into `files`. */
export async function addFile(file) {
  const token = await accessToken();
  const path = `${session.user.id}/${Date.now()}`;
  await supabase(`/storage/v1/object/files/${path}`, { method: "POST", body: file }, token);
  const row = {
    user_id: session.user.id,
    name: file.name.slice(-100),
    description: "",
    file_path: path,
    size: file.size,
    tokens: 0,
    type: file.name.split(".").pop().slice(-100),
  };
  const options = json(row);
  options.headers.Prefer = "return=representation";
  const [{ id }] = await supabase("/rest/v1/files", options, token);
  return id;
}

/** The custom models that the user sees: `[{ id, name, model_id }]`. */
export async function customModels() {
  return supabase("/rest/v1/models?select=id,name,model_id&order=name", {}, await accessToken());
}

/** The tools that the user sees, as the route for tools takes them; none where `migrate` made the tables. */
export async function savedTools() {
  const request = supabase("/rest/v1/tools?select=id,name,schema,custom_headers&order=name", {}, await accessToken());
  return request.catch((error) => {
    if (error.status === 404) return [];
    throw error;
  });
}

async function supabase(path, options, token = settings.anonKey) {
  const headers = { ...options.headers, apikey: settings.anonKey, Authorization: `Bearer ${token}` };
  const response = await reach(settings.supabaseUrl + path, { ...options, headers });
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}
