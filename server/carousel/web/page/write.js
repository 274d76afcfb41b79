// Write: likely next words at every key, and several continuations side by side.

import { post, stream } from "./api.js";
import { attempt, find, make, number, percent, say, tellProblem, visible } from "./dom.js";

const NUM_SHOWN = 10;
const MAX_CHARACTERS = 6000; // of the text that is read for a suggestion

// In most vocabularies a word's tokens begin with the space before it, so that space belongs to the unfinished word.
const AFTER_SPACES = /[^\S\n]*[^\s.,;:!?]*$/;
const BEFORE_SPACES = /\S*$/;

export function startWrite(model) {
  const text = find("write-text");
  const unfinished = model.tokenizer === "word" ? BEFORE_SPACES : AFTER_SPACES;
  let suggestions = []; // [{ text, shown, log_probability }], of the text as it was asked for
  let answered = ""; // the text that they are for
  let asking = null;
  let writing = null;
  let isTabFree = false; // after Escape, Tab leaves the field

  const unit = () => document.querySelector("[name=write-unit]:checked").value;

  function split() {
    const whole = text.value.slice(-MAX_CHARACTERS).replace(/^[\uDC00-\uDFFF]/, ""); // half of a character is none
    if (unit() === "tokens") return { read: whole, prefix: null };
    const at = whole.search(unfinished);
    return { read: whole.slice(0, at), prefix: whole.slice(at) };
  }

  async function suggest() {
    asking?.abort();
    const mine = (asking = new AbortController());
    const { read, prefix } = split(), asked = text.value;
    const body = { text: read, num_candidates: prefix === null ? NUM_SHOWN : 0 };
    if (prefix !== null && new TextEncoder().encode(prefix).length <= 64) Object.assign(body, { word_prefix: prefix, num_words: NUM_SHOWN });
    const started = performance.now();
    const found = await attempt(() => post("/carousel/v1/predict", body, { signal: mine.signal }));
    if (!found || asking !== mine) return;
    answered = asked;
    suggestions = prefix === null
      ? found.candidates.map((one) => ({ text: one.text, log_probability: one.log_probability, isExact: true }))
      : found.words.map((one) => ({ text: one.text, log_probability: one.log_probability }));
    const seconds = performance.now() - started;
    find("next-note").textContent = `${number(found.position)} tokens read and answered in ${number(seconds)} ms.`;
    showSuggestions();
  }

  function showSuggestions() {
    const most = Math.max(...suggestions.map((one) => one.log_probability), -Infinity);
    find("next").replaceChildren(...suggestions.map((one, index) => {
      const bar = make("span", { class: "bar", "aria-hidden": "true" });
      bar.style.width = `${Math.max(1, 100 * Math.exp(one.log_probability - most))}%`;
      const word = one.isExact ? visible(one.text) : one.text.trim();
      const button = make("button", { type: "button", onclick: () => take(index) },
        bar, make("span", { class: "word" }, word), make("span", { class: "share" }, percent(one.log_probability)));
      return make("li", {}, button);
    }));
    if (!suggestions.length) find("next").append(make("li", { class: "quiet" }, "No word fits what you have typed."));
  }

  function take(index) {
    const chosen = suggestions[index];
    if (!chosen || answered !== text.value) return; // the text has gone on: others are on their way
    if (unit() === "tokens") text.value += chosen.text.startsWith("bytes:") ? "" : chosen.text;
    else {
      const at = text.value.search(unfinished);
      text.value = `${text.value.slice(0, at)}${chosen.text} `;
    }
    text.scrollTop = text.scrollHeight;
    text.focus();
    say(`took ${chosen.text}`);
    suggestions = [];
    suggest();
  }

  /** Where spaces lead, the last one belongs to the word that comes. */
  const prompt = () => (model.tokenizer === "word" ? text.value : text.value.replace(/[^\S\n]+$/, ""));

  /** Returns the field's number within its bounds, which do not bind what is typed. */
  function bounded(id) {
    const { min, max, value } = find(id);
    return Math.min(Number(max), Math.max(Number(min), Math.floor(Number(value)) || Number(min)));
  }

  const options = () => {
    const seed = find("write-seed").value;
    return {
      prompt: prompt(),
      temperature: Number(find("write-temperature").value),
      top_p: Number(find("write-top-p").value),
      max_tokens: bounded("write-tokens"),
      n: bounded("write-count"),
      ...(seed === "" ? {} : { seed: Number(seed) }),
    };
  };

  function makeCard(number_, cards, asked) {
    const shown = make("p", { class: "written" });
    const facts = make("span", { class: "quiet" }, "…");
    const use = make("button", { type: "button", disabled: true, onclick: () => {
      text.value = asked.prompt + shown.textContent;
      cards.replaceChildren();
      text.focus();
      suggest();
    } }, "Use it");
    cards.append(make("article", { "aria-label": `Continuation ${number_ + 1}` }, shown, make("div", { class: "row between" }, facts, use)));
    return { shown, facts, use, tokens: 0 };
  }

  async function write() {
    writing?.abort();
    const mine = (writing = new AbortController());
    const asked = options();
    const cards = find("continuations");
    cards.replaceChildren();
    const made = Array.from({ length: asked.n }, (_, index) => makeCard(index, cards, asked));
    find("write-stop").disabled = false;
    const started = performance.now();
    try {
      tellProblem(null);
      for await (const event of stream("/v1/completions", { ...asked, stream_options: { include_usage: true } }, { signal: mine.signal })) {
        if (event.usage) tellSpeed(event.usage, started);
        for (const choice of event.choices) {
          const card = made[choice.index];
          card.shown.append(choice.text);
          if (choice.finish_reason) Object.assign(card, finish(card, choice.finish_reason));
        }
      }
    } catch (error) {
      if (error.name !== "AbortError") tellProblem(error);
      for (const card of made) if (card.use.disabled) finish(card, "stopped");
    } finally {
      if (writing === mine) find("write-stop").disabled = true;
    }
  }

  function finish(card, reason) {
    card.facts.textContent = { length: "as long as asked", stop: "came to a stop", stopped: "stopped" }[reason] ?? reason;
    card.use.disabled = false;
    return {};
  }

  function tellSpeed(usage, started) {
    const seconds = (performance.now() - started) / 1000;
    say(`${usage.completion_tokens} tokens written`);
    find("next-note").textContent = `${number(usage.completion_tokens)} tokens in ${number(seconds, 2)} s: ${number(usage.completion_tokens / seconds)} a second.`;
  }

  text.addEventListener("input", () => { isTabFree = false; suggest(); });
  text.addEventListener("blur", () => { isTabFree = false; });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Escape") isTabFree = true;
    if (event.key === "Tab" && !event.shiftKey && !isTabFree && suggestions.length) { event.preventDefault(); take(0); }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); write(); }
  });
  for (const name of ["temperature", "top-p"]) {
    find(`write-${name}`).addEventListener("input", (event) => { find(`write-${name}-value`).textContent = event.target.value; });
  }
  for (const radio of document.querySelectorAll("[name=write-unit]")) radio.addEventListener("change", suggest);
  find("write-go").addEventListener("click", write);
  find("write-stop").addEventListener("click", () => writing?.abort());
  suggest();
  return { shown: () => { if (!suggestions.length) suggest(); } };
}
