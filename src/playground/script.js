// The playground, an example of a client: signing in, asking, files. `server.js` has the calls of this server's routes,
// `supabase.js` those of Supabase, `conversation.js` what is sent and kept; `choice.js`, `turn.js` and `markdown.js` show.

import { chooseAllTools, chooseProvider, chosenModel, chosenTools, known, offer, provider, showTools } from "./choice.js";
import { files, forGoogle, forget, messages, restore, save, turns } from "./conversation.js";
import { copy, make, page, throttled } from "./page.js";
import { pictureOf } from "./picture.js";
import { attempt, clearComplaints, complain } from "./problems.js";
import { chat, currentModels, passages, processFile, serverKeys, usage } from "./server.js";
import { addFile, customModels, onEnd, savedTools, settings, signIn, signOut, user } from "./supabase.js";
import { showAnswer, turnElement } from "./turn.js";
import { footOf, linesOf } from "./usage.js";

const SUGGESTIONS = settings.demoUser
  ? ["Count to 50", "Show me Markdown", "Roll a die with 20 sides", "Show me an error", "Cut the answer off"]
  : ["Hello! Who are you?", "What is server-side rendering, in two sentences?", "Count to 50"];

const LEFT = "Stopped by leaving the page";

/** Pictures for the next question, as data URLs. */
let pictures = [];
/** Aborts the current answer. */
let stopper = null;
// Signing in and out.

function show() {
  const isIn = Boolean(user());
  page.welcome.hidden = isIn;
  page.chat.hidden = page.account.hidden = !isIn;
  const isDemo = Boolean(settings.demoUser);
  page["demo-sign-in"].hidden = page["welcome-demo"].hidden = !isDemo;
  page["sign-in"].hidden = page["welcome-project"].hidden = isDemo;
  page.email.textContent = user()?.email ?? "";
}

async function enter() {
  show();
  const kept = restore(user().id);
  page.question.value = kept.draft ?? "";
  page.question.focus();
  fitQuestion();
  showConversation();
  try {
    const [custom, heldKeys, models, tools] = await Promise.all([customModels(), serverKeys(), currentModels(), savedTools()]);
    offer({ custom, heldKeys, models, tools });
  } catch (error) {
    complain("choice-error", error);
  }
  showTools(kept.tools ?? []);
  if (kept.prompt !== undefined) {
    for (const name of ["prompt", "temperature", "embeddings"]) page[name].value = kept[name];
  }
  if (kept.provider) page.provider.value = kept.provider;
  chooseProvider(kept.model);
}

/** Keeps everything for a reload. */
function keep() {
  if (!user()) return;
  const chosen = { provider: page.provider.value, model: chosenModel(), tools: chosenTools().map(({ id }) => id) };
  const written = { draft: page.question.value, prompt: page.prompt.value, temperature: page.temperature.value, embeddings: page.embeddings.value };
  if (!save(user().id, { ...chosen, ...written })) {
    complain("composer-error", new Error("This chat has become too long to be kept over a reload of the page"));
  }
}

addEventListener("pagehide", () => {
  if (stopper) {
    turns.at(-1).foot = LEFT;
    stopper.abort(LEFT);
  }
  keep();
});

onEnd(() => {
  show();
  complain("sign-in-error", new Error("Your session has ended: please sign in again"));
});

page["demo-sign-in"].onclick = () =>
  attempt(page["demo-sign-in"], "sign-in-error", async () => {
    await signIn(settings.demoUser.email, settings.demoUser.password);
    await enter();
  });

page["sign-in"].onsubmit = (event) => {
  event.preventDefault();
  attempt(event.submitter, "sign-in-error", async () => {
    await signIn(page["sign-in-email"].value, page["sign-in-password"].value);
    page["sign-in"].reset();
    await enter();
  });
};

page["sign-out"].onclick = () =>
  attempt(page["sign-out"], "sign-in-error", async () => {
    startAgain();
    await signOut().finally(show);
  });

if (!settings.localEmbeddings) page.embeddings.querySelector("[value=local]").remove();

page["new-chat"].onclick = () => {
  startAgain();
  page.question.focus();
};

function startAgain() {
  stopper?.abort();
  rest();
  forget();
  pictures = [];
  page.question.value = "";
  fitQuestion();
  clearComplaints();
  showConversation();
}

page["open-settings"].onclick = () => {
  page.settings.showModal();
  showUsage();
};

async function showUsage() {
  try {
    page.usage.replaceChildren(...linesOf(await usage()).map((textContent) => make("p", { textContent })));
  } catch (error) {
    page.usage.replaceChildren(make("p", { textContent: error.message }));
  }
}

// Asking.

page.suggestions.append(
  ...SUGGESTIONS.map((text) => make("li", {}, make("button", { type: "button", textContent: text, onclick: () => suggest(text) }))),
);

function suggest(text) {
  // The demo's one tool are dice.
  if (text.startsWith("Roll")) chooseAllTools();
  ask(text);
}

page.composer.onsubmit = (event) => {
  event.preventDefault();
  const question = page.question.value.trim();
  if ((question || pictures.length) && !stopper) {
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
  if (event.key === "Escape" && !page.settings.open) stopper?.abort();
});

function ask(question) {
  if (stopper) return;
  const mine = { role: "user", text: question, images: pictures };
  pictures = [];
  showAttached();
  turns.push(mine);
  addTurn(mine);
  answer();
}

/** Asks the last question once more, of what is chosen now. */
function again() {
  if (stopper) return;
  if (turns.at(-1)?.role === "assistant") {
    turns.pop();
    page.log.lastElementChild.remove();
  }
  answer();
}

/** Has the last question answered. */
async function answer() {
  const stop = (stopper = new AbortController());
  const { id, name } = provider();
  const model = chosenModel();
  const who = id === "custom" ? `Custom · ${page.model.selectedOptions[0]?.textContent ?? "none"}` : `${name} · ${model}`;
  const turn = { role: "assistant", who, text: "" };
  turns.push(turn);
  const element = addTurn(turn);
  const showSoon = throttled(() => follow(() => showAnswer(element, turn)));
  const began = performance.now();
  let firstText = 0;
  let count = null;
  let done = {};
  clearComplaints();
  element.ariaBusy = "true";
  page.stop.hidden = false;
  page.send.hidden = true;
  page.status.textContent = "The answer is coming";
  keepFocus();
  showActions();
  try {
    const found = await passagesFor(turn, stop.signal);
    const chosen = chosenTools();
    const posted = messages(page.prompt.value, found);
    const request = {
      chatSettings: { model: id === "custom" ? "custom" : model, prompt: page.prompt.value, temperature: Number(page.temperature.value), contextLength: 4096 },
      messages: id === "google" && chosen.length === 0 ? forGoogle(posted) : posted,
      customModelId: id === "custom" ? model : "",
    };
    if (chosen.length) request.selectedTools = chosen;
    await chat(chosen.length ? "tools" : id, request, stop.signal, {
      delta({ text }) {
        firstText ||= performance.now();
        turn.text += text;
        showSoon();
      },
      reasoning({ text }) {
        turn.thoughts = (turn.thoughts ?? "") + text;
        showSoon();
      },
      tool({ name, status }) {
        turn.tools ??= [];
        const called = turn.tools.find((tool) => tool.name === name && tool.status === "calling");
        if (called && status !== "calling") called.status = status;
        else turn.tools.push({ name, status });
        showSoon();
      },
      warning({ message }) {
        (turn.warnings ??= []).push(message);
        showSoon();
      },
      sources: ({ sources }) => (turn.sources = sources),
      usage: (counted) => (count = counted),
      done: (facts) => (done = facts),
    });
    turn.foot = footOf(turn, { began, firstText, count, priceOf: known, ...done });
    page.status.textContent = `Answer: ${turn.text}`;
  } catch (error) {
    const isStopped = stop.signal.aborted;
    if (isStopped) turn.foot = stop.signal.reason === LEFT ? LEFT : "Stopped";
    else turn.error = { message: error.message, requestId: error.requestId };
    page.status.textContent = isStopped ? "Stopped" : "";
  }
  showSoon.end();
  follow(() => showAnswer(element, turn));
  element.ariaBusy = "false";
  if (stopper === stop) rest();
  if (turns.includes(turn)) keep();
}

// The conversation.

function showConversation() {
  page.log.replaceChildren();
  turns.forEach(addTurn);
  // Nothing new went wrong.
  page.log.querySelectorAll("[role=alert]").forEach((element) => element.removeAttribute("role"));
  page.empty.hidden = turns.length > 0;
  showAttached();
  showActions();
}

function addTurn(turn) {
  const element = turnElement(turn);
  element.turn = turn;
  if (turn.role === "assistant") element.ariaBusy = "false";
  page.empty.hidden = true;
  page.log.append(element);
  document.documentElement.scrollTop = document.documentElement.scrollHeight;
  return element;
}

/** Below each answer: copying it; below the last one also asking again. */
function showActions() {
  for (const element of page.log.querySelectorAll(".answer")) {
    const isLast = element === page.log.lastElementChild;
    const { text, error } = element.turn;
    const actions = [];
    if (text) actions.push(make("button", { type: "button", className: "plain copy", textContent: "Copy" }));
    if (isLast) actions.push(make("button", { type: "button", className: "plain again", textContent: error ? "Try again" : "Regenerate", onclick: again }));
    element.querySelector(".turn-actions").replaceChildren(...(isLast && stopper ? [] : actions));
  }
}

page.log.onclick = async ({ target }) => {
  const button = target.closest(".copy");
  if (!button) return;
  const code = button.closest(".code")?.querySelector("pre");
  const isCopied = await copy(code ? code.textContent : button.closest(".turn").turn.text);
  button.textContent = isCopied ? "Copied" : "Not copied";
  page.status.textContent = button.textContent;
  setTimeout(() => (button.textContent = "Copy"), 2000);
};

/** Ends the answer. */
function rest() {
  stopper = null;
  page.stop.hidden = true;
  page.send.hidden = false;
  follow(showActions);
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

// Files and pictures.

page.attach.onclick = () => page.file.click();

page.file.onchange = () => {
  const [file] = page.file.files;
  page.file.value = "";
  if (file) attempt(page.attach, "composer-error", () => attach(file));
};

page.question.onpaste = (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  attempt(page.attach, "composer-error", () => attach(file));
};

async function attach(file) {
  if (/^image\//.test(file.type)) {
    pictures.push(await pictureOf(file));
    showAttached();
    page.question.focus();
    return;
  }
  const item = make("li", {}, make("span", { className: "name", textContent: file.name }), make("span", { className: "state", textContent: "is being read …" }));
  page.files.append(item);
  page.status.textContent = `${file.name} is being read`;
  try {
    const id = await addFile(file);
    await processFile(id, page.embeddings.value);
    // The chat may have been replaced by a new one meanwhile.
    if (!item.isConnected) return;
    files.push({ id, name: file.name });
    keep();
    page.status.textContent = `${file.name} can be asked about`;
    page.question.focus();
  } catch (error) {
    page.status.textContent = "";
    throw error;
  } finally {
    item.remove();
    showAttached();
  }
}

/** Shows the chat's files, and the pictures of the next question, each with a button that leaves it out. */
function showAttached() {
  const reading = page.files.querySelectorAll("li:has(.state)");
  const items = [...files.map((file) => [files, file, file.name]), ...pictures.map((url, at) => [pictures, url, `Picture ${at + 1}`])];
  page.files.replaceChildren(
    ...items.map(([list, entry, name]) => {
      const remove = () => {
        list.splice(list.indexOf(entry), 1);
        showAttached();
        keep();
        page.question.focus();
      };
      const seen = list === pictures ? make("img", { src: entry, alt: name }) : make("span", { className: "name", textContent: name });
      return make("li", {}, seen, make("button", { type: "button", textContent: "✕", ariaLabel: `Leave out ${name}`, onclick: remove }));
    }),
    ...reading,
  );
}

/** Finds passages of the files for the last question; they are shown with the answer. */
async function passagesFor(turn, signal) {
  const { text } = turns.findLast(({ role }) => role === "user");
  if (files.length === 0 || !text) return [];
  const found = await passages(text, files.map(({ id }) => id), page.embeddings.value, signal);
  turn.passages = found.map(({ content, file_id }) => ({ name: files.find(({ id }) => id === file_id)?.name, content }));
  return found;
}

if (user()) enter();
else show();
