// Time: sessions as a tree. Any point of the past can be forked or returned to; branches can be compared.

import { call, get, post, stream } from "./api.js";
import { attempt, bytes, find, make, number, once, percent, say } from "./dom.js";
import * as transcripts from "./transcripts.js";
import { drawTree, holdNames, pointsOf } from "./tree.js";

const path = (id, action = "") => `/carousel/v1/sessions/${encodeURIComponent(id)}${action}`;
const fieldOf = (label, attributes, value = "") => {
  const input = make(attributes.rows ? "textarea" : "input", attributes);
  input.value = value;
  return { input, label: make("label", {}, label, " ", input) };
};

const MARGIN = 40; // pixels around the chosen point
const NAMES = 130; // pixels for the names of sessions, on the left
const MAX_PAGES = 20; // that are read to find a session again

export function startTime(model) {
  let sessions = [];
  let next = "";
  let chosen = null; // { session, position }
  let running = null;

  async function refresh() {
    const seen = [], most = sessions.length;
    let token = "";
    const isFar = () => chosen && !seen.some((one) => one.session_id === chosen.session);
    for (let page = 0; page === 0 || (token && page < MAX_PAGES && (seen.length < most || isFar())); page += 1) {
      const found = await get(`/carousel/v1/tree?page_size=50&page_token=${encodeURIComponent(token)}`);
      seen.push(...found.sessions);
      token = found.next_page_token;
    }
    [sessions, next] = [seen, token];
    show();
  }

  async function more() {
    const page = await get(`/carousel/v1/tree?page_size=50&page_token=${encodeURIComponent(next)}`);
    sessions = [...sessions, ...page.sessions];
    next = page.next_page_token;
    show();
  }

  function show() {
    find("time-more").hidden = !next;
    const found = chosen && sessions.find((one) => one.session_id === chosen.session);
    if (found && !pointsOf(found).some((one) => one.position === chosen.position)) chosen = { session: chosen.session, position: found.position };
    if (!found) chosen = sessions.length ? { session: sessions[0].session_id, position: sessions[0].position } : null;
    const hadFocus = find("tree").contains(document.activeElement);
    const empty = make("p", { class: "quiet" }, "There is no session yet. Create one: its whole past will be ", bytes(model.state_bytes), ".");
    find("tree").replaceChildren(sessions.length ? drawTree(sessions, chosen, choose) : empty);
    if (hadFocus) find("tree").querySelector(".chosen")?.focus();
    uncover(find("tree"), find("tree").querySelector(".chosen"));
    showPoint();
  }

  /** Moves the box alone, never the page, until the element is in sight. */
  function uncover(box, element) {
    if (!element) return;
    const frame = box.getBoundingClientRect(), place = element.getBoundingClientRect();
    box.scrollLeft += Math.max(0, place.right + MARGIN - frame.right) - Math.max(0, frame.left + NAMES - place.left);
    holdNames(box);
    box.scrollTop += Math.max(0, place.bottom + MARGIN - frame.bottom) - Math.max(0, frame.top - (place.top - MARGIN));
  }

  function choose(session, point) {
    chosen = { session: session.session_id, position: point.position };
    show();
  }

  function showPoint() {
    const session = chosen && sessions.find((one) => one.session_id === chosen.session);
    if (!session) return find("point").replaceChildren();
    const point = pointsOf(session).find((one) => one.position === chosen.position);
    const where = point.isTurn || point.isNow ? { position: point.position } : { checkpoint: point.checkpoints[0] };
    find("point").replaceChildren(
      make("h2", {}, `${session.session_id} at ${number(point.position)}`),
      make("p", { class: "quiet" }, describe(session, point)),
      textOf(session, point), continuing(session, point, where), moving(session, point, where));
  }

  function describe(session, point) {
    const names = point.checkpoints.map((name) => `checkpoint ${name}`);
    const parent = session.origin ? [`forked from ${session.origin.session_id} at ${session.origin.position}`] : [];
    const minutes = Math.max(0, (session.expire_time - Date.now() / 1000) / 60);
    return [point.isNow ? "now" : "in the past", ...names, ...parent, `ends in ${number(minutes)} min unless used`].join("; ");
  }

  function textOf(session, point) {
    const { turns, isWhole } = transcripts.until(session, point.position);
    const shown = make("p", { class: "transcript" });
    if (!isWhole && point.position) shown.append(make("span", { class: "quiet" }, "[the server keeps states, not texts] "));
    for (const turn of turns) shown.append(turn.read, make("mark", {}, turn.written));
    return shown;
  }

  function continuing(session, point, where) {
    const read = fieldOf("Read this", { rows: 2 }, session.position === 0 ? "Once upon a time" : "");
    const count = fieldOf("Tokens to write", { type: "number", min: 0, max: 2000, step: 1 }, "24");
    const temperature = fieldOf("Temperature", { type: "number", min: 0, max: 2, step: 0.1 }, "0.8");
    const go = make("button", { type: "button", class: "strong", onclick: once(async () => {
      const row = point.isNow ? session : await fork(session, where, freeName(session));
      await advance(row, point.position, read.input.value, Number(count.input.value), Number(temperature.input.value));
    }) }, point.isNow ? "Continue" : "Fork and continue");
    const stop = make("button", { type: "button", onclick: () => running?.abort() }, "Stop");
    return make("div", { class: "group" }, read.label, make("div", { class: "row" }, count.label, temperature.label, go, stop));
  }

  async function advance(row, from, read, maxTokens, temperature) {
    const id = row.session_id;
    running?.abort();
    running = new AbortController();
    const shown = find("point").querySelector(".transcript");
    const live = make("mark", {});
    shown.append(read, live);
    const body = { prompt: read, max_tokens: maxTokens, temperature, session_id: id, expected_position: from };
    try {
      for await (const event of stream("/v1/completions", body, { signal: running.signal })) {
        for (const choice of event.choices) live.append(choice.text);
        if (event.position !== undefined) {
          transcripts.note(row, from, event.position, read, live.textContent);
          chosen = { session: id, position: event.position };
          say(`${id} is at ${event.position}`);
        }
      }
    } finally {
      await refresh();
    }
  }

  /** Returns the first of tale-2, tale-3, … that no session in sight has. */
  function freeName(session) {
    const [, whole] = /^(.*?)(?:-\d+)?$/.exec(session.session_id), stem = whole.slice(0, 120);
    let index = 2;
    while (sessions.some((one) => one.session_id === `${stem}-${index}`)) index += 1;
    return `${stem}-${index}`;
  }

  async function fork(session, where, name) {
    const body = { ...where, ...(name ? { new_session_ids: [name] } : {}) };
    const { sessions: [made] } = await post(path(session.session_id, "/fork"), body);
    transcripts.fork(session, made, made.position);
    chosen = { session: made.session_id, position: made.position };
    return made;
  }

  function moving(session, point, where) {
    const id = session.session_id;
    const forkName = fieldOf("Name of the fork", { type: "text", maxlength: 128, size: 12 }, freeName(session));
    const markName = fieldOf("Name of a checkpoint", { type: "text", maxlength: 128, size: 12 });
    const act = (label, action, isShown = true) => isShown ? make("button", { type: "button", onclick: once(async () => { await action(); await refresh(); }) }, label) : null;
    return make("div", { class: "group" },
      make("div", { class: "row" }, forkName.label, act("Fork here", () => fork(session, where, forkName.input.value.trim()))),
      point.isNow ? make("div", { class: "row" }, markName.label, act("Save a checkpoint", () => post(path(id, "/checkpoint"), { checkpoint: markName.input.value.trim() }))) : null,
      make("div", { class: "row" },
        act("Rewind to here", async () => {
          const row = await post(path(id, "/rewind"), { ...where, expected_position: session.position });
          transcripts.cut(session, row.position);
        }, !point.isNow),
        act("Export", () => save(session, where)),
        act("Compare", () => compare(session), point.isNow),
        act("Delete", async () => {
          await call("DELETE", path(id));
          transcripts.forget(session);
        })));
  }

  async function save(session, where) {
    const { state, position } = await post(path(session.session_id, "/export"), where);
    const content = Uint8Array.from(atob(state), (one) => one.charCodeAt(0));
    const link = make("a", { href: URL.createObjectURL(new Blob([content])), download: `${session.session_id}-${position}.carousel` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`${bytes(content.length)} saved`);
  }

  async function bringIn(file) {
    const content = new Uint8Array(await file.arrayBuffer());
    let text = "";
    for (let at = 0; at < content.length; at += 8192) text += String.fromCharCode(...content.subarray(at, at + 8192));
    const name = find("time-name").value.trim();
    const row = await post("/carousel/v1/import", { state: btoa(text), ...(name ? { session_id: name } : {}) });
    chosen = { session: row.session_id, position: row.position };
    await refresh();
  }

  /** Puts a session's present beside the others that are compared already. */
  async function compare(session) {
    const id = session.session_id;
    const found = await post("/carousel/v1/predict", { session_id: id, num_candidates: 0, word_prefix: "", num_words: 6 });
    const { turns } = transcripts.until(session, session.position);
    const text = turns.map((turn) => turn.read + turn.written).join("");
    const words = found.words.map((one) => make("li", {}, make("span", { class: "word" }, one.text.trim()), " ", make("span", { class: "share" }, percent(one.log_probability))));
    find(`compared-${id}`)?.remove();
    find("comparison").append(make("article", { id: `compared-${id}`, "aria-label": id },
      make("h3", {}, `${id} at ${number(session.position)}`),
      make("p", { class: "written", "data-text": text }),
      make("p", { class: "quiet" }, "What it expects next:"), make("ol", { class: "inline" }, ...words),
      make("button", { type: "button", onclick: (event) => { event.target.closest("article").remove(); showDifferences(); } }, "Remove")));
    showDifferences();
  }

  /** What all compared texts begin with steps back; where they part stands out. */
  function showDifferences() {
    const shown = [...find("comparison").querySelectorAll(".written")], texts = shown.map((one) => one.dataset.text);
    let common = 0;
    while (texts.length > 1 && texts.every((one) => common < one.length && one[common] === texts[0][common])) common += 1;
    shown.forEach((one, index) => {
      const start = Math.max(0, texts[index].length - 600);
      one.replaceChildren(make("span", { class: "quiet" }, texts[index].slice(start, Math.max(start, common))), texts[index].slice(Math.max(start, common)) || (common ? "" : "…"));
    });
  }

  find("time-create").addEventListener("click", once(async () => {
    const name = find("time-name").value.trim();
    const row = await post("/carousel/v1/sessions", name ? { session_id: name } : {});
    chosen = { session: row.session_id, position: 0 };
    find("time-name").value = "";
    await refresh();
  }));
  find("tree").addEventListener("scroll", (event) => holdNames(event.currentTarget));
  find("time-refresh").addEventListener("click", () => attempt(refresh));
  find("time-more").addEventListener("click", () => attempt(more));
  find("time-import").addEventListener("change", (event) => attempt(async () => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) await bringIn(file);
  }));
  return { shown: () => attempt(refresh), hidden: () => running?.abort() };
}
