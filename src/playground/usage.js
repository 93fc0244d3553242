// What an answer took, and what the user has used, in words.

/** The words below an answer: how long it took, and how much. */
export function footOf(turn, { began, firstText, count, usage, finish_reason, model, effective_model, priceOf }) {
  const words = [turn.text ? `First text after ${seconds(began, firstText)}, whole after ${seconds(began)}` : "The answer is empty"];
  if (finish_reason === "length") words.push("ended by its limit of tokens");
  const took = tokens(usage ?? count);
  if (took) words.push(`${took.input} tokens in, ${took.output} out`, ...cost(took, priceOf(effective_model ?? model)));
  if (effective_model && effective_model !== model) words.push(`${effective_model} in place of ${model}`);
  return words.join(" · ");
}

/** Tokens by any provider's count, and what it says that they cost. */
function tokens(usage) {
  if (!usage) return null;
  const cached = usage.cache_read_input_tokens;
  const input = usage.prompt_tokens ?? usage.input_tokens ?? usage.promptTokenCount;
  const output = usage.completion_tokens ?? usage.output_tokens ?? (usage.candidatesTokenCount ?? 0) + (usage.thoughtsTokenCount ?? 0);
  return {
    // Anthropic alone counts what its cache read and wrote beside the rest.
    input: (input ?? 0) + (cached ?? 0) + (usage.cache_creation_input_tokens ?? 0),
    cached: cached ?? (usage.prompt_tokens_details ?? usage.input_tokens_details)?.cached_tokens ?? usage.cachedContentTokenCount ?? 0,
    output,
    cost: usage.cost?.total_cost ?? usage.cost,
  };
}

/** What that costs: the provider's own figure, else by the catalogue's list prices. */
function cost({ input, cached, output, cost }, prices) {
  if (typeof cost === "number") return [dollars(cost)];
  if (typeof prices?.input !== "number" || typeof prices.output !== "number") return [];
  const sum = (input - cached) * prices.input + cached * (prices.cached ?? prices.input) + output * prices.output;
  return [`about ${dollars(sum / 1_000_000)}`];
}

function dollars(amount) {
  return `$${amount >= 0.01 || amount === 0 ? amount.toFixed(2) : amount.toPrecision(2)}`;
}

function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function inUnit(amount, unit) {
  return unit === "usd" ? dollars(amount) : count(amount, unit.slice(0, -1));
}

function seconds(from, to = performance.now()) {
  return `${((to - from) / 1000).toFixed(2)} s`;
}

/** The lines about the answer of `/api/usage`. */
export function linesOf({ today, month, budgets }) {
  const sum = ({ requests, tokens, usd }) => `${count(requests, "request")}, ${count(tokens, "token")}, ${dollars(usd)}`;
  const left = ({ amount, period, unit, model, left, resets_at }) =>
    `Of ${inUnit(amount, unit)} a ${period}${model ? ` for ${model}` : ""}: ${inUnit(left, unit)} left until ${new Date(resets_at).toLocaleString("en-GB")}`;
  return [`Today: ${sum(today)}`, `This month: ${sum(month)}`, ...budgets.map(left), "In dollars by list prices; days are UTC’s."];
}
