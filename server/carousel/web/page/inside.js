// Inside: the values of the state after each token of a text, as a map of units by time.

import { post } from "./api.js";
import { attempt, find, make, number, say, visible } from "./dom.js";

const ROW = 7; // pixels of a unit's row
const MIN_COLUMN = 9;
const MAX_UNITS = 512; // rows of the map

export function startInside(model) {
  let found = null; // { tokens, tensors: Map(name -> { rows: number of units, values: Float32Array [T][units] }) }
  let ordered = []; // the units of the map, top to bottom
  let unit = 0;
  let column = 0;

  async function read() {
    const answer = await attempt(() => post("/carousel/v1/inspect", { text: find("inside-text").value }));
    if (!answer) return;
    found = { tokens: answer.tokens, tensors: new Map(answer.tensors.filter((one) => one.dtype === "float32").flatMap((one) => layersOf(one, answer.tokens.length))) };
    const select = find("inside-tensor"), before = select.value;
    select.replaceChildren(...[...found.tensors.keys()].map((name) => make("option", { value: name }, name)));
    if (found.tensors.has(before)) select.value = before;
    find("inside-note").textContent = `${number(answer.tokens.length)} tokens read.`;
    find("inside-found").hidden = !answer.tokens.length;
    arrange(true);
  }

  /** A tensor of several layers becomes one entry for each: [layers, units] or, without layers, [units]. */
  function layersOf({ name, shape, values }, length) {
    const raw = Uint8Array.from(atob(values), (one) => one.charCodeAt(0));
    const all = new Float32Array(raw.buffer);
    const units = shape.at(-1) ?? 1;
    const layers = shape.slice(0, -1).reduce((product, one) => product * one, 1);
    return Array.from({ length: layers }, (_, layer) => {
      const own = new Float32Array(length * units);
      for (let t = 0; t < length; t += 1) { // the first moment is before the first token
        const start = ((t + 1) * layers + layer) * units;
        own.set(all.subarray(start, start + units), t * units);
      }
      return [layers > 1 ? `${name}, layer ${layer + 1}` : name, { units, values: own, scale: scaleOf(own) }];
    });
  }

  /** The 99th percentile of sizes, so that one outlier does not wash out the rest. */
  function scaleOf(values) {
    const sizes = Float32Array.from(values, Math.abs).sort();
    return sizes[Math.floor(sizes.length * 0.99)] || 1;
  }

  const tensor = () => found.tensors.get(find("inside-tensor").value);
  const valueAt = (t, one) => tensor().values[t * tensor().units + one];

  function arrange(isFresh) {
    if (!found?.tokens.length) return;
    const { units, values } = tensor(), length = found.tokens.length;
    const rank = { index: () => 0, activity: variance, switching: clarity }[find("inside-order").value];
    const scores = Array.from({ length: units }, (_, one) => rank(one, values, units, length));
    ordered = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b).slice(0, MAX_UNITS);
    if (isFresh || unit >= units) unit = ordered[0];
    column = Math.min(column, length - 1);
    find("inside-unit").max = units - 1;
    drawAll();
  }

  function drawAll() {
    find("inside-unit").value = unit;
    showUnit();
    drawMap();
  }

  function colourOf(value, scale) {
    const styles = getComputedStyle(document.documentElement);
    const share = Math.max(-1, Math.min(1, value / scale));
    return { colour: styles.getPropertyValue(share < 0 ? "--cold" : "--warm").trim(), share: Math.abs(share) };
  }

  function showUnit() {
    const { scale } = tensor();
    find("unit-title").textContent = `Unit ${unit} of ${find("inside-tensor").value}, in the text`;
    find("unit-text").replaceChildren(...found.tokens.map((token, t) => {
      const { colour, share } = colourOf(valueAt(t, unit), scale);
      const piece = make("span", { title: `${visible(token.text)}: ${valueAt(t, unit).toFixed(3)}`, class: t > 0 && valueAt(t, unit) * valueAt(t - 1, unit) < 0 ? "switch-here" : "" }, token.text || visible(token.text));
      piece.style.background = `color-mix(in srgb, ${colour} ${Math.round(share * 55)}%, transparent)`;
      return piece;
    }));
  }

  function sizes() {
    const column_ = Math.max(MIN_COLUMN, Math.min(22, Math.floor((find("inside-map").parentElement.clientWidth - 4) / found.tokens.length)));
    return { column: column_, width: column_ * found.tokens.length, height: ROW * ordered.length };
  }

  function drawMap() {
    const canvas = find("inside-map"), size = sizes(), { scale } = tensor(), ratio = devicePixelRatio || 1;
    canvas.width = size.width * ratio;
    canvas.height = size.height * ratio;
    canvas.style.width = `${size.width}px`;
    canvas.style.height = `${size.height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const styles = getComputedStyle(document.documentElement);
    const colours = { cold: styles.getPropertyValue("--cold").trim(), warm: styles.getPropertyValue("--warm").trim() };
    ordered.forEach((one, row) => {
      for (let t = 0; t < found.tokens.length; t += 1) {
        const share = Math.max(-1, Math.min(1, valueAt(t, one) / scale));
        context.globalAlpha = Math.abs(share);
        context.fillStyle = share < 0 ? colours.cold : colours.warm;
        context.fillRect(t * size.column, row * ROW, size.column, ROW - 1);
      }
    });
    context.globalAlpha = 1;
    context.strokeStyle = styles.getPropertyValue("--ink").trim();
    context.lineWidth = 1.5;
    context.strokeRect(0.75, ordered.indexOf(unit) * ROW - 0.75, size.width - 1.5, ROW + 0.5);
    canvas.setAttribute("aria-label", `Map of ${ordered.length} units over ${found.tokens.length} tokens. Unit ${unit} is chosen.`);
    tell();
  }

  function tell() {
    const token = found.tokens[column];
    find("map-detail").textContent = `Unit ${unit} after token ${column + 1}, “${visible(token.text)}”: ${valueAt(column, unit).toFixed(3)}`;
  }

  function choose(one, t) {
    if (one === undefined) return;
    unit = one;
    column = Math.max(0, Math.min(found.tokens.length - 1, t));
    drawAll();
  }

  find("inside-go").addEventListener("click", read);
  find("inside-tensor").addEventListener("change", () => arrange(true));
  find("inside-order").addEventListener("change", () => arrange(true));
  find("inside-unit").addEventListener("change", (event) => {
    if (!found) return;
    const wanted = Math.max(0, Math.min(tensor().units - 1, Math.floor(Number(event.target.value) || 0)));
    if (!ordered.includes(wanted)) ordered = [wanted, ...ordered.slice(0, MAX_UNITS - 1)];
    choose(wanted, column);
  });
  find("inside-map").addEventListener("click", (event) => {
    choose(ordered[Math.floor(event.offsetY / ROW)], Math.floor(event.offsetX / sizes().column));
  });
  find("inside-map").addEventListener("keydown", (event) => {
    const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    choose(ordered[ordered.indexOf(unit) + down] ?? unit, column + right);
    say(find("map-detail").textContent);
  });
  document.addEventListener("themechange", () => { if (found?.tokens.length) drawAll(); });
  if (model.inspect) read();
  else {
    for (const id of ["inside-go", "inside-text"]) find(id).disabled = true;
    find("inside-note").textContent = "This server does not show states. Start it with --set inspect=true to see them here.";
  }
  return {};
}

function variance(one, values, units, length) {
  let sum = 0, squares = 0;
  for (let t = 0; t < length; t += 1) {
    const value = values[t * units + one];
    sum += value;
    squares += value * value;
  }
  return squares / length - (sum / length) ** 2;
}

/** High for a unit that is far from zero on both sides and seldom changes from one to the other: a switch. */
function clarity(one, values, units, length) {
  let size = 0, flips = 0, above = 0;
  for (let t = 0; t < length; t += 1) {
    const value = values[t * units + one];
    size += Math.abs(value);
    if (value > 0) above += 1;
    if (t > 0 && value * values[(t - 1) * units + one] < 0) flips += 1;
  }
  const share = above / length;
  return flips === 0 ? 0 : ((size / length) * share * (1 - share)) / Math.sqrt(flips);
}
