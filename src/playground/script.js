// The playground's script, and an example of a client. From the top down:
// Supabase (sign in, tables, storage), then this server's routes, then the page.

const settings = await fetch("/playground/settings.json").then((response) => response.json());

// ---------------------------------------------------------------- Supabase

/** The session as Supabase gave it: tokens, their time, the user. */
let session = JSON.parse(sessionStorage.getItem("session"));
let refreshing = null;

function keep(newSession) {
  session = newSession;
  if (session) sessionStorage.setItem("session", JSON.stringify(session));
  else sessionStorage.removeItem("session");
}

async function signIn(email, password) {
  keep(await supabase("/auth/v1/token?grant_type=password", json({ email, password })));
}

/** Ends the session at Supabase if it can be reached, and in this page in any case. */
async function signOut() {
  try {
    await supabase("/auth/v1/logout", { method: "POST" }, await accessToken());
  } finally {
    keep(null);
  }
}

/** Returns the access token; refreshes it first, once for all callers, if it has less than a minute left. */
async function accessToken() {
  if (session.expires_at - Date.now() / 1000 < 60) {
    const { refresh_token } = session;
    refreshing ??= supabase("/auth/v1/token?grant_type=refresh_token", json({ refresh_token }))
      .then(keep, (error) => {
        // Refused rather than unreachable: the session has ended.
        if (error.status) {
          keep(null);
          show();
        }
        throw error;
      })
      .finally(() => (refreshing = null));
    await refreshing;
  }
  return session.access_token;
}

/** Puts a file into the user's folder in storage and its row into `files`. */
async function addFile(file) {
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

/** The user's custom models: `[{ id, name, model_id }]`. */
async function customModels() {
  return supabase("/rest/v1/models?select=id,name,model_id&order=name", {}, await accessToken());
}

async function supabase(path, options, token = settings.anonKey) {
  const headers = { ...options.headers, apikey: settings.anonKey, Authorization: `Bearer ${token}` };
  const response = await reach(settings.supabaseUrl + path, { ...options, headers });
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

// -------------------------------------------------------- The server's routes

/** Calls a chat route. `onText` gets the answer's text piece by piece. */
async function chat(provider, request, signal, onText) {
  const response = await api(`/api/chat/${provider}`, { ...json(request), signal });
  const reader = response.body.getReader();
  // Keeps the first bytes of a character until the rest arrives.
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      // The server cuts the connection where the provider failed, so that
      // half an answer is not taken for a whole one.
      throw signal.aborted ? error : new CutOff();
    });
    if (done) return;
    onText(decoder.decode(value, { stream: true }));
  }
}

/** Processes an uploaded file into passages. */
async function processFile(id, embeddingsProvider) {
  const form = new FormData();
  form.append("file_id", id);
  form.append("embeddingsProvider", embeddingsProvider);
  await api("/api/retrieval/process", { method: "POST", body: form });
}

/** The passages of these files that are nearest to a question. */
async function passages(userInput, fileIds, embeddingsProvider, signal) {
  const request = { userInput, fileIds, embeddingsProvider, sourceCount: 4 };
  const response = await api("/api/retrieval/retrieve", { ...json(request), signal });
  return (await response.json()).results;
}

/** Returns the keys that the server has, by provider; the others are in the user's profile. */
async function serverKeys() {
  const response = await reach("/api/keys", {});
  return (await response.json()).isUsingEnvKeyMap;
}

async function api(path, options) {
  const headers = { ...options.headers, Authorization: `Bearer ${await accessToken()}` };
  return reach(path, { ...options, headers });
}

/** The routes take their provider's own messages. Google's have other names. */
function messagesFor(provider, messages) {
  if (provider !== "google") return messages;
  return messages.map(({ role, content }) => ({
    role: role === "assistant" ? "model" : "user",
    parts: [{ text: content }],
  }));
}

/** A question with the passages that may answer it. */
function withPassages(question, found) {
  if (found.length === 0) return question;
  const sources = found.map(({ content }) => `<BEGIN SOURCE>\n${content}\n</END SOURCE>`);
  const words = "You may use the following sources to answer. If you do not know the answer, say so.";
  return [question, words, ...sources].join("\n\n");
}

class CutOff extends Error {
  message = "The answer was cut off";
}

function json(body) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

/** `fetch`, with an error whose message can be shown, from this server or Supabase. */
async function reach(url, options) {
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
  const message = body.message || body.msg || body.error_description;
  throw Object.assign(new Error(message || `The server answered with status ${response.status}`), { status: response.status });
}

// ------------------------------------------------------------------ The page

const PROVIDERS = [
  { id: "openai", name: "OpenAI", models: ["gpt-4o", "gpt-4-turbo-preview", "gpt-3.5-turbo"] },
  { id: "anthropic", name: "Anthropic", models: ["claude-3-5-sonnet-20240620", "claude-3-haiku-20240307"] },
  { id: "google", name: "Google Gemini", models: ["gemini-1.5-pro-latest", "gemini-1.5-flash"] },
  { id: "azure", name: "Azure OpenAI", models: ["gpt-4-turbo-preview", "gpt-3.5-turbo"] },
  { id: "groq", name: "Groq", models: ["llama3-70b-8192", "mixtral-8x7b-32768"] },
  { id: "mistral", name: "Mistral", models: ["mistral-large-latest", "mistral-small-latest"] },
  { id: "openrouter", name: "OpenRouter", models: ["openai/gpt-4o"] },
  { id: "perplexity", name: "Perplexity", models: ["sonar", "sonar-pro"] },
  { id: "custom", name: "Custom", models: [] },
];

const SUGGESTIONS = settings.demoUser
  ? ["Count to 50", "Hello! Who are you?", "Show me an error", "Cut the answer off"]
  : ["Hello! Who are you?", "What is server-side rendering, in two sentences?", "Count to 50"];

/** The elements by their ids. */
const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));

/** The messages: `[{ role, content }]`. */
let conversation = [];
/** The files of this chat: `[{ id, name }]`. */
let files = [];
/** Aborts the current answer. */
let stopper = null;
let heldKeys = {};

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Shows an error until it is closed or the next message is sent. */
function complain(error) {
  const close = make("button", { type: "button", textContent: "Close", onclick: clearComplaint });
  page.toast.replaceChildren(make("div", { className: "toast" }, make("p", { textContent: error.message }), close));
}

function clearComplaint() {
  const hadFocus = page.toast.contains(document.activeElement);
  page.toast.replaceChildren();
  if (hadFocus) page.question.focus();
}

/** Runs an action that may fail, with its button disabled meanwhile. */
async function attempt(button, work) {
  clearComplaint();
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    complain(error);
  } finally {
    button.disabled = false;
  }
}

// Signing in and out.

function show() {
  page.welcome.hidden = Boolean(session);
  page.chat.hidden = page.account.hidden = !session;
  page["demo-sign-in"].hidden = !settings.demoUser;
  page["sign-in"].hidden = Boolean(settings.demoUser);
  page.email.textContent = session?.user.email ?? "";
}

async function enter() {
  show();
  page.question.focus();
  try {
    const [models, keys] = await Promise.all([customModels(), serverKeys()]);
    page["custom-model"].replaceChildren(
      ...models.map(({ id, name, model_id }) => make("option", { value: id, textContent: `${name} (${model_id})` })),
    );
    heldKeys = keys;
    chooseProvider();
  } catch (error) {
    complain(error);
  }
}

page["demo-sign-in"].onclick = () =>
  attempt(page["demo-sign-in"], async () => {
    await signIn(settings.demoUser.email, settings.demoUser.password);
    await enter();
  });

page["sign-in"].onsubmit = (event) => {
  event.preventDefault();
  attempt(event.submitter, async () => {
    await signIn(page["sign-in-email"].value, page["sign-in-password"].value);
    page["sign-in"].reset();
    await enter();
  });
};

page["sign-out"].onclick = () =>
  attempt(page["sign-out"], async () => {
    startAgain();
    await signOut().finally(show);
  });

// Choosing.

function provider() {
  return PROVIDERS.find(({ id }) => id === page.provider.value);
}

function chooseProvider() {
  const { id, models } = provider();
  const custom = id === "custom";
  page["named-model"].hidden = custom;
  page["custom-model-choice"].hidden = !custom;
  page.model.value = models[0] ?? "";
  page.models.replaceChildren(...models.map((value) => make("option", { value })));
  const whose = heldKeys[id] ? "With the server’s key" : "With the key in your profile";
  page["key-note"].textContent = custom ? "With the address and key of the model" : whose;
}

page.provider.append(...PROVIDERS.map(({ id, name }) => make("option", { value: id, textContent: name })));
page.provider.onchange = chooseProvider;
chooseProvider();

page["new-chat"].onclick = () => {
  startAgain();
  page.question.focus();
};

function startAgain() {
  stopper?.abort();
  rest();
  conversation = [];
  files = [];
  page.log.replaceChildren();
  page.files.replaceChildren();
  page.empty.hidden = false;
  clearComplaint();
}

// Asking.

page.suggestions.append(
  ...SUGGESTIONS.map((text) => make("li", {}, make("button", { type: "button", textContent: text, onclick: () => ask(text) }))),
);

page.composer.onsubmit = (event) => {
  event.preventDefault();
  const question = page.question.value.trim();
  if (question && !stopper) {
    page.question.value = "";
    fitQuestion();
    ask(question);
  }
};

page.question.onkeydown = (event) => {
  // During composition, Enter belongs to the input method.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    page.composer.requestSubmit();
  }
};

page.question.oninput = fitQuestion;

function fitQuestion() {
  page.question.style.height = "auto";
  page.question.style.height = `${page.question.scrollHeight + 2}px`;
}

page.stop.onclick = () => stopper?.abort();

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (stopper) stopper.abort();
  else clearComplaint();
});

async function ask(question) {
  if (stopper) return;
  const stop = (stopper = new AbortController());
  const { id, name } = provider();
  const customModel = page["custom-model"].selectedOptions[0];
  const model = id === "custom" ? "custom" : page.model.value;
  const mine = turn("mine", "You", question);
  const answer = turn("answer", id === "custom" ? `Custom · ${customModel?.textContent ?? "none"}` : `${name} · ${model}`, "");
  const began = performance.now();
  let text = "";
  let firstText = 0;
  clearComplaint();
  answer.ariaBusy = "true";
  page.stop.hidden = false;
  page.send.hidden = true;
  page.status.textContent = "The answer is coming";
  keepFocus();
  try {
    const found = await passagesFor(question, answer, stop.signal);
    const messages = [
      { role: "system", content: page.prompt.value },
      ...conversation,
      { role: "user", content: withPassages(question, found) },
    ];
    const request = {
      chatSettings: { model, prompt: page.prompt.value, temperature: Number(page.temperature.value), contextLength: 4096 },
      messages: messagesFor(id, messages),
      customModelId: id === "custom" ? (customModel?.value ?? "") : "",
    };
    await chat(id, request, stop.signal, (piece) => {
      firstText ||= performance.now();
      text += piece;
      follow(() => answer.said.append(piece));
    });
    note(answer, text ? `First text after ${seconds(began, firstText)}, whole after ${seconds(began)}` : "The answer is empty");
    page.status.textContent = `Answer: ${text}`;
  } catch (error) {
    if (stop.signal.aborted) {
      note(answer, "Stopped");
      page.status.textContent = "Stopped";
    } else {
      complain(error);
      page.status.textContent = "";
      if (error instanceof CutOff && text) note(answer, error.message, "cut");
      else takeBack(question, mine, answer);
    }
  }
  if (mine.isConnected) {
    conversation.push({ role: "user", content: question });
    if (text) conversation.push({ role: "assistant", content: text });
  }
  answer.ariaBusy = "false";
  if (stopper === stop) rest();
}

/** If no text arrived, puts the question back so that it can be sent again. */
function takeBack(question, ...turns) {
  turns.forEach((turn) => turn.remove());
  page.empty.hidden = page.log.childElementCount > 0;
  if (!page.question.value) page.question.value = question;
  fitQuestion();
}

function turn(className, who, text) {
  const said = make("div", { className: "said", textContent: text });
  const turn = make("li", { className: `turn ${className}` }, make("p", { className: "who", textContent: who }), said);
  turn.said = said;
  page.empty.hidden = true;
  page.log.append(turn);
  document.documentElement.scrollTop = document.documentElement.scrollHeight;
  return turn;
}

function note(turn, text, className = "") {
  follow(() => turn.append(make("p", { className: `note ${className}`, textContent: text })));
}

/** Ends the answer. */
function rest() {
  stopper = null;
  page.stop.hidden = true;
  page.send.hidden = false;
  keepFocus();
}

/** Keeps the focus when the focused button disappears. */
function keepFocus() {
  if (!document.activeElement?.checkVisibility() || document.activeElement === document.body) page.question.focus();
}

/** Changes the page, and stays scrolled to its end if it was there. */
function follow(change) {
  const root = document.documentElement;
  const atTheEnd = root.scrollHeight - root.scrollTop - root.clientHeight < 80;
  change();
  if (atTheEnd) root.scrollTop = root.scrollHeight;
}

function seconds(from, to = performance.now()) {
  return `${((to - from) / 1000).toFixed(2)} s`;
}

// Files.

page.attach.onclick = () => page.file.click();

page.file.onchange = () => {
  const [file] = page.file.files;
  page.file.value = "";
  if (file) attempt(page.attach, () => attach(file));
};

async function attach(file) {
  const state = make("span", { className: "state", textContent: "is being read …" });
  const item = make("li", {}, make("span", { className: "name", textContent: file.name }), state);
  page.files.append(item);
  page.status.textContent = `${file.name} is being read`;
  try {
    const id = await addFile(file);
    await processFile(id, page.embeddings.value);
    // The chat may have been replaced by a new one meanwhile.
    if (!item.isConnected) return;
    files.push({ id, name: file.name });
    state.replaceWith(
      make("button", {
        type: "button",
        textContent: "✕",
        ariaLabel: `Leave out ${file.name}`,
        onclick: () => {
          files = files.filter((other) => other.id !== id);
          item.remove();
          page.question.focus();
        },
      }),
    );
    page.status.textContent = `${file.name} can be asked about`;
    page.question.focus();
  } catch (error) {
    item.remove();
    page.status.textContent = "";
    throw error;
  }
}

/** Finds passages of the files for a question; they are shown with the answer. */
async function passagesFor(question, answer, signal) {
  if (files.length === 0) return [];
  const found = await passages(question, files.map(({ id }) => id), page.embeddings.value, signal);
  const nameOf = (id) => files.find((file) => file.id === id)?.name;
  answer.append(
    make(
      "details",
      { className: "passages" },
      make("summary", { textContent: `${found.length} ${found.length === 1 ? "passage" : "passages"} from your files` }),
      ...found.map(({ content, file_id }) => make("blockquote", { textContent: `${nameOf(file_id)}: ${content}` })),
    ),
  );
  return found;
}

if (session) enter();
else show();
