// Surprise: how little the model expected each token of a text or a file. A file may grow while it is read: its state
// stays on the server as a session, so new lines are measured where the old ones ended.

import { call, post } from "./api.js";
import { attempt, find, make, number, percent, say, visible } from "./dom.js";

const BITS = 1 / Math.LN2;
const NUM_LEVELS = 10;
const BITS_PER_LEVEL = 1.6;
const NUM_CANDIDATES = 5;
const NUM_WORST = 12;
const MAX_SHOWN_TOKENS = 3000;
const MAX_CHUNK = 6000; // characters of a request
const POLL_MILLISECONDS = 1000;

const level = (bits) => Math.min(NUM_LEVELS - 1, Math.floor(bits / BITS_PER_LEVEL));

export function startSurprise(model) {
  const maxChunk = Math.min(MAX_CHUNK, Math.floor(model.limits.max_answer_items / (1 + NUM_CANDIDATES) / 4), model.limits.max_input_tokens);
  let lines = []; // { tokens, bits, mean }
  let first = 0; // line of those that are shown
  let current = null; // { line, token }
  let run = null; // what is being measured, with its session

  async function measure(read, { isEndless = false } = {}) {
    const before = run;
    const mine = (run = { control: new AbortController(), session: "", made: null, tokens: 0, bits: 0, isOpenLine: false });
    await end(before);
    if (run !== mine) return; // another click was faster
    lines = [];
    first = 0;
    current = null;
    find("surprise-stop").disabled = false;
    await attempt(async () => {
      for await (const chunk of read(mine.control.signal)) {
        if (run !== mine) return;
        for (let at = 0, next; at < chunk.text.length && run === mine; at = next) {
          next = endOfPortion(chunk.text, at);
          await score(mine, chunk.text.slice(at, next), isEndless || !chunk.isAll || chunk.text.length > maxChunk);
        }
        if (run === mine) show(mine, isEndless);
      }
    });
    if (run !== mine) return;
    await stop();
    show(mine, false);
  }

  /** A portion never ends inside of a character. */
  function endOfPortion(text, at) {
    const end = Math.min(text.length, at + maxChunk);
    return end < text.length && /[\uD800-\uDBFF]/.test(text[end - 1]) ? end - 1 : end;
  }

  async function stop() {
    const ended = run;
    run = null;
    find("surprise-stop").disabled = true;
    if (ended) show(ended, false);
    await end(ended);
  }

  async function end(ended) {
    if (!ended) return;
    ended.control.abort();
    await ended.made?.catch(() => {}); // a session that is being made is deleted after that
    if (ended.session) await call("DELETE", `/carousel/v1/sessions/${ended.session}`, undefined, { keepalive: true }).catch(() => {});
  }

  async function score(mine, text, isLong) {
    const { signal } = mine.control;
    if (isLong && !mine.session) {
      mine.session = `surprise-${crypto.getRandomValues(new Uint32Array(3)).join("-")}`;
      await (mine.made = post("/carousel/v1/sessions", { session_id: mine.session }));
    }
    const body = { text, num_candidates: NUM_CANDIDATES, ...(mine.session ? { session_id: mine.session } : {}) };
    const found = await post("/carousel/v1/score", body, { signal });
    if (run !== mine) return;
    for (const token of found.tokens) add(mine, token);
  }

  /** A token with a line's end in it belongs to the line that it ends. */
  function add(mine, token) {
    if (!mine.isOpenLine) lines.push({ tokens: [], bits: 0, mean: 0 });
    const line = lines.at(-1);
    const bits = -token.log_probability * BITS;
    line.tokens.push({ ...token, bits });
    line.bits += bits;
    line.mean = line.bits / line.tokens.length;
    mine.tokens += 1;
    mine.bits += bits;
    mine.isOpenLine = !token.text.includes("\n");
  }

  function show(mine, isEndless) {
    const mean = mine.tokens ? mine.bits / mine.tokens : 0;
    const following = isEndless ? " Following the file." : "";
    find("surprise-note").textContent = `${number(mine.tokens)} tokens in ${number(lines.length)} lines; ${number(mean, 2)} bits a token, perplexity ${number(2 ** mean, 1)}.${following}`;
    if (isEndless) first = lastWindow();
    showWorst();
    showHeat();
  }

  function lastWindow() {
    let at = lines.length, count = 0;
    while (at > 0 && count + lines[at - 1].tokens.length <= MAX_SHOWN_TOKENS) count += lines[--at].tokens.length;
    return Math.min(at, Math.max(0, lines.length - 1));
  }

  function showWorst() {
    const ranked = lines.map((line, index) => ({ line, index })).filter(({ line }) => line.tokens.some((one) => one.text.trim()));
    ranked.sort((a, b) => b.line.mean - a.line.mean);
    find("surprise-lines").replaceChildren(...ranked.slice(0, NUM_WORST).map(({ line, index }) => {
      const meter = make("span", { class: `level heat-${level(line.mean)}` }, number(line.mean, 1));
      const button = make("button", { type: "button", onclick: () => jump(index) },
        meter, make("span", { class: "place" }, `line ${index + 1}`), make("span", { class: "line-text" }, excerpt(line)));
      return make("li", {}, button);
    }));
  }

  function worstOf(line) {
    let worst = 0;
    line.tokens.forEach((token, at) => { if (token.bits > line.tokens[worst].bits) worst = at; });
    return worst;
  }

  /** Shows the line from a little before its most surprising token. */
  function excerpt(line) {
    const worst = worstOf(line);
    const before = line.tokens.slice(0, worst).map((one) => one.text).join("").trimStart();
    const text = line.tokens.map((one) => one.text).join("").trim();
    return before.length > 24 ? `…${text.slice(before.length - 16, before.length + 140)}` : text.slice(0, 160);
  }

  function jump(index) {
    const worst = worstOf(lines[index]);
    const end = endOfWindow();
    if (index < first || index >= end) { first = Math.max(0, index - 3); showHeat(); }
    choose(index, worst, true);
  }

  function endOfWindow() {
    let at = first, count = 0;
    while (at < lines.length && (count === 0 || count + lines[at].tokens.length <= MAX_SHOWN_TOKENS)) count += lines[at++].tokens.length;
    return at;
  }

  function showHeat() {
    const end = endOfWindow();
    find("heat").replaceChildren(...lines.slice(first, end).map((line, offset) => {
      const index = first + offset;
      return make("div", { class: "heat-line", role: "group", "aria-label": `line ${index + 1}` }, ...line.tokens.map((token, at) => make("span", {
        id: `heat-${index}-${at}`, role: "option", "aria-selected": "false", class: `heat-${level(token.bits)}`,
        "data-line": index, "data-token": at, "aria-label": token.text.trim() ? null : visible(token.text),
      }, token.text || visible(token.text))));
    }));
    find("heat-earlier").hidden = first === 0;
    find("heat-later").hidden = end >= lines.length;
    if (current && current.line >= first && current.line < end) choose(current.line, current.token);
    else describe(null);
  }

  function choose(line, token, isScrolled = false) {
    for (const one of document.querySelectorAll("#heat [aria-selected=true]")) one.setAttribute("aria-selected", "false");
    current = { line, token };
    const element = find(`heat-${line}-${token}`);
    if (!element) return;
    element.setAttribute("aria-selected", "true");
    find("heat").setAttribute("aria-activedescendant", element.id);
    if (isScrolled) element.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    describe(lines[line].tokens[token]);
  }

  function describe(token) {
    if (!token) return find("heat-detail").replaceChildren();
    const others = (token.candidates ?? []).map((one) => make("li", { class: one.id === token.id ? "this" : "" },
      make("span", { class: "word" }, visible(one.text)), " ", make("span", { class: "share" }, percent(one.log_probability))));
    find("heat-detail").replaceChildren(
      make("p", {}, make("strong", {}, visible(token.text)), `  ${number(token.bits, 1)} bits, ${percent(token.log_probability)}, rank ${number(token.rank)}`),
      make("p", { class: "quiet" }, "The model expected:"), make("ol", { class: "inline" }, ...others));
  }

  function move(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    if (!lines.length || !(event.key in steps || ["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key))) return;
    event.preventDefault();
    const end = endOfWindow();
    let { line, token } = current && current.line >= first && current.line < end ? current : { line: first, token: -1 };
    if (event.key in steps) token += steps[event.key];
    if (event.key === "ArrowDown") line = Math.min(line + 1, end - 1);
    if (event.key === "ArrowUp") line = Math.max(line - 1, first);
    if (token >= lines[line].tokens.length && event.key === "ArrowRight" && line + 1 < end) { line += 1; token = 0; }
    if (token < 0 && line > first) { line -= 1; token = lines[line].tokens.length - 1; }
    if (event.key === "Home") token = 0;
    if (event.key === "End") token = lines[line].tokens.length - 1;
    choose(line, Math.min(Math.max(token, 0), lines[line].tokens.length - 1));
    find(`heat-${current.line}-${current.token}`)?.scrollIntoView({ block: "nearest" });
  }

  const whole = (text) => async function* () { yield { text, isAll: true }; };

  /** Yields what is in the file and then, while `isEndless`, the whole lines that are added. */
  const grown = (open, isEndless) => async function* (signal) {
    let decoder = new TextDecoder();
    let at = 0, rest = "";
    for (;;) {
      const file = await open();
      if (file.size < at) { at = 0; rest = ""; decoder = new TextDecoder(); } // it was begun anew
      while (at < file.size) {
        const part = file.slice(at, at + 65536);
        rest += decoder.decode(await part.arrayBuffer(), { stream: true });
        at += part.size;
        const end = rest.lastIndexOf("\n") + 1 || (rest.length > 8192 ? rest.length : 0);
        if (end) yield { text: rest.slice(0, end), isAll: false };
        rest = rest.slice(end);
      }
      if (!isEndless) break;
      await new Promise((resolve) => setTimeout(resolve, POLL_MILLISECONDS));
      signal.throwIfAborted();
    }
    rest += decoder.decode();
    if (rest) yield { text: rest, isAll: false };
  };

  for (let one = 0; one < NUM_LEVELS; one += 1) find("heat-legend").append(make("i", { class: `heat-${one}` }));
  find("surprise-go").addEventListener("click", () => measure(whole(find("surprise-text").value)));
  find("surprise-stop").addEventListener("click", stop);
  find("surprise-file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) measure(grown(async () => file, false));
    event.target.value = "";
  });
  if ("showOpenFilePicker" in window) {
    find("surprise-follow").hidden = false;
    find("surprise-follow").addEventListener("click", () => attempt(async () => {
      const [handle] = await window.showOpenFilePicker();
      measure(grown(() => handle.getFile(), true), { isEndless: true });
    }));
  }
  find("heat").addEventListener("mouseover", (event) => {
    const { line, token } = event.target.dataset;
    if (token !== undefined) choose(Number(line), Number(token));
  });
  find("heat").addEventListener("keydown", move);
  find("heat-earlier").addEventListener("click", () => { first = Math.max(0, first - 40); showHeat(); say("earlier lines"); });
  find("heat-later").addEventListener("click", () => { first = endOfWindow(); showHeat(); say("later lines"); });
  addEventListener("pagehide", () => { stop(); });
  measure(whole(find("surprise-text").value));
  return {};
}
