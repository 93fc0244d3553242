// Choosing a provider, a model and tools.

import { make, page } from "./page.js";

/**
 * The providers by their routes. Models come from the server's catalogue; of Azure and OpenRouter it lists none. The
 * route for tools goes by the model's name alone, which leads to another provider where `tools` is missing.
 */
const PROVIDERS = [
  { id: "openai", name: "OpenAI", tools: true },
  { id: "anthropic", name: "Anthropic", tools: true },
  { id: "google", name: "Google Gemini", tools: true },
  { id: "azure", name: "Azure OpenAI", models: ["gpt-4-turbo-preview", "gpt-4-vision-preview", "gpt-3.5-turbo"] },
  { id: "groq", name: "Groq" },
  { id: "mistral", name: "Mistral", tools: true },
  { id: "openrouter", name: "OpenRouter", tools: true, models: ["openrouter/auto"] },
  { id: "perplexity", name: "Perplexity" },
  { id: "custom", name: "Custom", tools: true },
];

const OTHER = "other…";

let models = {};
let custom = [];
let tools = [];
let heldKeys = {};

export function provider() {
  return PROVIDERS.find(({ id }) => id === page.provider.value);
}

/** What the catalogue has of a model, if it knows it. */
export function known(id) {
  return models[page.provider.value]?.find((model) => model.id === id);
}

/** Offers the provider's models; chooses one of them, else the cheapest. */
export function chooseProvider(chosen) {
  const { id, models: fixed } = provider();
  const listed = fixed ?? models[id]?.map(({ id }) => id) ?? [];
  const options = id === "custom" ? custom.map(({ id, name, model_id }) => [id, `${name} (${model_id})`]) : listed.map((id) => [id, id]);
  if (id !== "custom" && id !== "azure") options.push([OTHER, "Another model …"]);
  page.model.replaceChildren(...options.map(([value, textContent]) => make("option", { value, textContent })));
  const priced = (models[id] ?? []).filter(({ output }) => output !== null).sort((one, other) => one.output - other.output);
  const isListed = options.some(([value]) => value === chosen);
  page.model.value = isListed ? chosen : chosen ? OTHER : (priced[0]?.id ?? options[0]?.[0] ?? "");
  page["model-name"].value = isListed || !chosen ? "" : chosen;
  chooseModel();
}

function chooseModel() {
  page["other-model"].hidden = page.model.value !== OTHER;
  const { id, name, tools: takesTools } = provider();
  const notes = [id === "custom" ? "With the address and key of the model" : heldKeys[id] ? "With the server’s key" : "With the key in your profile, if it has one"];
  if (known(chosenModel())?.images === false) notes.push("takes no pictures");
  const names = chosenTools().map(({ name }) => name);
  if (names.length) notes.push(`may use ${names.join(", ")}`);
  page["key-note"].textContent = notes.join(" · ");
  page["tools-note"].textContent = takesTools
    ? tools.length === 0
      ? "You have no tools: add one in chatbot-ui."
      : ""
    : `The route for tools goes by the model’s name, which does not lead to ${name}: there they are not offered.`;
}

/** The chosen model's name, or a custom model's id. */
export function chosenModel() {
  return page.model.value === OTHER ? page["model-name"].value.trim() : page.model.value;
}

export function showTools(chosen) {
  page.tools.replaceChildren(
    ...tools.map(({ id, name }) => make("label", { className: "check" }, make("input", { type: "checkbox", value: id, checked: chosen.includes(id), onchange: chooseModel }), name)),
  );
}

export function chooseAllTools() {
  showTools(tools.map(({ id }) => id));
  chooseModel();
}

export function chosenTools() {
  const chosen = [...page.tools.querySelectorAll(":checked")].map(({ value }) => value);
  return provider().tools ? tools.filter(({ id }) => chosen.includes(id)) : [];
}

/** Takes what can be chosen: the catalogue's models, the user's own, tools, and the names of the server's keys. */
export function offer(all) {
  ({ models, custom, tools, heldKeys } = all);
}

page.provider.append(...PROVIDERS.map(({ id, name }) => make("option", { value: id, textContent: name })));
page.provider.onchange = () => chooseProvider();
page.model.onchange = () => {
  chooseModel();
  if (page.model.value === OTHER) page["model-name"].focus();
};
page["model-name"].oninput = chooseModel;
