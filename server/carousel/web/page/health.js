// Health: what the server is and does now. Rates and latencies are the differences of two answers.

import { Refused, get } from "./api.js";
import { bytes, draw, find, make, number, tellProblem } from "./dom.js";

const MILLISECONDS = 2000;
const NUM_KEPT = 60;
const LATENCIES = { request_seconds: "A call", time_to_first_token_seconds: "The first token", step_seconds: "A step of the model" };

export function startHealth(model) {
  let before = null;
  let timer = null;
  const rates = [];

  async function look() {
    let now;
    try {
      now = await get("/carousel/v1/figures");
      tellProblem(null);
    } catch (error) {
      tellProblem(error);
      before = null;
      if (error instanceof Refused) stop(); // what does not answer may come back
      return;
    }
    if (now.start_time !== before?.start_time) before = null; // it has restarted, and counts anew
    if (before) {
      rates.push((now.consumed_tokens - before.consumed_tokens) / (now.time - before.time));
      rates.splice(0, Math.max(0, rates.length - NUM_KEPT));
    }
    showGauges(now);
    showSpark();
    showLatency(now);
    before = now;
  }

  function showGauges(now) {
    const limits = now.limits;
    const gauges = [
      ["Tokens a second", number(rates.at(-1) ?? 0), null],
      ["Lanes busy", number(now.busy_lanes), limits.max_lanes],
      ["Turns waiting", number(now.queued_turns), limits.max_queued_turns],
      ["Live sessions", number(now.live_sessions), limits.max_sessions],
      ["Session state", now.session_bytes || !now.live_sessions ? bytes(now.session_bytes) : "not counted", null],
      ["Memory", bytes(now.memory_bytes), null],
      ["Session store", now.store_up ? "up" : "down", null],
      ["Up for", spell(now.time - now.start_time), null],
    ];
    find("gauges").replaceChildren(...gauges.map(([label, value, limit]) => make("div", { class: "gauge" },
      make("span", { class: "quiet" }, label), make("strong", {}, value),
      make("span", { class: "quiet" }, limit ? `of ${number(limit)}` : ""))));
  }

  function spell(seconds) {
    if (seconds < 120) return `${number(seconds)} s`;
    if (seconds < 7200) return `${number(seconds / 60)} min`;
    return seconds < 172_800 ? `${number(seconds / 3600)} h` : `${number(seconds / 86_400)} days`;
  }

  function showSpark() {
    const width = 480, height = 90, most = Math.max(...rates, 1);
    const points = rates.map((rate, index) => `${(index / (NUM_KEPT - 1)) * width},${height - 4 - (rate / most) * (height - 14)}`);
    const label = `${number(rates.at(-1) ?? 0)} tokens a second now, ${number(most)} at most in two minutes`;
    find("spark").replaceChildren(draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "spark" },
      draw("polyline", { points: points.join(" ") }), draw("text", { x: 2, y: 12, class: "axis start" }, `most: ${number(most)}`)));
  }

  function showLatency(now) {
    const head = make("tr", {}, ...["Of", "median", "99 %", "count"].map((one) => make("th", { scope: "col" }, one)));
    const rows = Object.entries(LATENCIES).map(([name, label]) => {
      const all = now.histograms[name];
      const since = before ? all.map(([bound, count], index) => [bound, count - (before.histograms[name][index]?.[1] ?? 0)]) : all;
      const shown = (since.at(-1)?.[1] ?? 0) > 0 ? since : all; // where nothing came lately, since the start
      return make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, quantile(shown, 0.5)), make("td", {}, quantile(shown, 0.99)), make("td", {}, number(all.at(-1)?.[1] ?? 0)));
    });
    find("latency").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  }

  /** Returns the quantile in the way of Prometheus: linear inside of a bucket. */
  function quantile(buckets, share) {
    const total = buckets.at(-1)?.[1] ?? 0;
    if (!total) return "–";
    const index = buckets.findIndex(([, count]) => count >= share * total);
    const [bound, count] = buckets[index], [low, below] = index ? buckets[index - 1] : [0, 0];
    if (bound === null) return `> ${spellSeconds(low)}`;
    return spellSeconds(low + ((bound - low) * (share * total - below)) / (count - below || 1));
  }

  const spellSeconds = (seconds) => (seconds < 1 ? `${number(seconds * 1000, seconds < 0.01 ? 2 : 0)} ms` : `${number(seconds, 2)} s`);

  function showCard() {
    const layers = `${model.num_layers} of ${number(model.hidden_size)} units`;
    const rows = [["Name", model.name], ["Cell", model.block === "plain" ? model.cell : `${model.cell} in ${model.block} blocks`], ["Layers", layers],
      ["Parameters", number(model.num_parameters)], ["Precision", model.precision], ["Vocabulary", `${number(model.vocabulary_size)} (${model.tokenizer})`],
      ["State of a session", `${number(model.state_bytes)} bytes: ${model.state.map((one) => `${one.name} ${one.shape.join("×")}`).join(", ")}`],
      ["Runs on", model.provider], ["Digest", model.digest.slice(0, 16)],
      ...Object.entries(model.training).filter(([, value]) => typeof value !== "object").map(([name, value]) => [`Trained: ${name.replaceAll("_", " ")}`, typeof value === "number" ? number(value, 4) : String(value)])];
    find("card").replaceChildren(...rows.flatMap(([label, value]) => [make("dt", {}, label), make("dd", {}, value)]));
  }

  function stop() {
    clearInterval(timer);
    timer = null;
  }

  showCard();
  return {
    shown: () => { stop(); look(); timer = setInterval(look, MILLISECONDS); },
    hidden: stop,
  };
}
