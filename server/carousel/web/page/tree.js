// Draws sessions as a tree: a lane for each, columns for positions. Pure but for the elements that it makes.

import { draw } from "./dom.js";

const LANE = 46;
const MIN_COLUMN = 34;
const LEFT = 130;
const TOP = 28;

/** Returns the sessions in the order of their lanes: each fork below its parent, later forks first. */
export function order(sessions) {
  const byId = new Map(sessions.map((one) => [one.session_id, one]));
  const forks = new Map();
  const roots = [];
  for (const one of sessions) {
    const parent = one.origin && byId.get(one.origin.session_id);
    if (!parent || parent === one) { roots.push(one); continue; }
    forks.set(parent.session_id, [...(forks.get(parent.session_id) ?? []), one]);
  }
  const ordered = [], seen = new Set();
  const visit = (one, depth) => {
    if (seen.has(one.session_id)) return;
    seen.add(one.session_id);
    ordered.push({ ...one, depth });
    const below = (forks.get(one.session_id) ?? []).sort((a, b) => b.origin.position - a.origin.position || a.create_time - b.create_time);
    for (const fork of below) visit(fork, depth + 1);
  };
  roots.sort((a, b) => a.create_time - b.create_time).forEach((one) => visit(one, 0));
  for (const one of sessions) visit(one, 0); // parents that name each other
  return ordered;
}

/** Returns the points of a session, oldest first: { position, checkpoints, isNow, isTurn }. */
export function pointsOf(session) {
  const points = new Map();
  const at = (position) => {
    if (!points.has(position)) points.set(position, { position, checkpoints: [], isTurn: false, isNow: false });
    return points.get(position);
  };
  for (const position of session.positions) at(position).isTurn = true;
  for (const [name, position] of Object.entries(session.checkpoints)) at(position).checkpoints.push(name);
  at(session.position).isNow = true;
  return [...points.values()].sort((a, b) => a.position - b.position);
}

/** Returns an SVG. `choose` is called with a session and a point. */
export function drawTree(sessions, chosen, choose) {
  const lanes = order(sessions).map((session, lane) => ({ session, y: TOP + LANE * (lane + 0.5), points: pointsOf(session) }));
  const positions = [...new Set(lanes.flatMap(({ session, points }) => [...points.map((one) => one.position), ...(session.origin ? [session.origin.position] : [])]))].sort((a, b) => a - b);
  const column = Math.max(MIN_COLUMN, Math.min(90, 700 / Math.max(1, positions.length - 1)));
  const x = new Map(positions.map((position, index) => [position, LEFT + index * column]));
  const width = LEFT + Math.max(1, positions.length - 1) * column + 40;
  const height = TOP + LANE * lanes.length + 8;
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Sessions" });
  positions.forEach((position) => svg.append(
    draw("line", { x1: x.get(position), x2: x.get(position), y1: TOP - 6, y2: height - 4, class: "grid" }),
    draw("text", { x: x.get(position), y: 14, class: "axis" }, String(position))));
  const byId = new Map(lanes.map((lane) => [lane.session.session_id, lane]));
  for (const lane of lanes) svg.append(...drawLines(lane, byId.get(lane.session.origin?.session_id), x));
  const dots = lanes.flatMap((lane, index) => lane.points.map((point) => drawPoint(lane, index, point, x, chosen, choose)));
  const hasFocus = dots.find((dot) => dot.classList.contains("chosen")) ?? dots[0];
  hasFocus?.setAttribute("tabindex", "0");
  svg.append(...dots, ...lanes.map(drawName));
  svg.addEventListener("keydown", (event) => moveFocus(event, dots));
  return svg;
}

function drawLines({ session, y, points }, parent, x) {
  const first = x.get(points[0].position), last = x.get(points.at(-1).position);
  const lines = [draw("line", { x1: first, x2: last, y1: y, y2: y, class: "lane" })];
  if (parent && session.origin) {
    const from = x.get(session.origin.position), bend = Math.min(24, Math.max(8, first - from));
    lines.push(draw("path", { d: `M ${from} ${parent.y} C ${from} ${y}, ${from} ${y}, ${Math.max(from + bend, first)} ${y}`, class: "fork" }));
  }
  return lines;
}

/** Above the dots: a name stays in sight where the past moves on below it. */
function drawName({ session, y }) {
  const name = session.session_id.length > 16 ? `${session.session_id.slice(0, 15)}…` : session.session_id;
  return draw("text", { x: 8 + 10 * Math.min(session.depth, 3), y: y + 4, class: "name" }, draw("title", {}, session.session_id), name);
}

/** Moves the names to where the box is scrolled to. */
export function holdNames(box) {
  for (const name of box.querySelectorAll(".name")) name.setAttribute("transform", `translate(${box.scrollLeft} 0)`);
}

function drawPoint({ session, y }, lane, point, x, chosen, choose) {
  const isChosen = chosen && chosen.session === session.session_id && chosen.position === point.position;
  const names = point.checkpoints.length ? `, checkpoint ${point.checkpoints.join(", ")}` : "";
  const cx = x.get(point.position);
  const shape = point.checkpoints.length
    ? draw("rect", { x: cx - 7, y: y - 7, width: 14, height: 14, transform: `rotate(45 ${cx} ${y})` })
    : draw("circle", { cx, cy: y, r: point.isNow ? 8 : 6 });
  return draw("g", {
    class: `point${point.isNow ? " now" : ""}${isChosen ? " chosen" : ""}`, role: "button", tabindex: "-1",
    "aria-pressed": String(Boolean(isChosen)), "data-lane": lane, "data-x": cx,
    "aria-label": `${session.session_id} at ${point.position}${point.isNow ? ", now" : ""}${names}`,
    onclick: () => choose(session, point),
    onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(session, point); } },
  }, draw("title", {}, `${session.session_id} at ${point.position}${names}`), draw("circle", { cx, cy: y, r: 14, class: "halo" }), shape);
}

function moveFocus(event, dots) {
  const at = dots.indexOf(event.target.closest(".point"));
  if (at < 0 || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
  event.preventDefault();
  const lane = Number(dots[at].dataset.lane), place = Number(dots[at].dataset.x);
  const sameLane = dots.filter((dot) => Number(dot.dataset.lane) === lane);
  const step = event.key === "ArrowRight" || event.key === "ArrowDown" ? 1 : -1;
  let next;
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") next = sameLane[sameLane.indexOf(dots[at]) + step];
  else {
    const other = dots.filter((dot) => Number(dot.dataset.lane) === lane + step);
    next = other.sort((a, b) => Math.abs(a.dataset.x - place) - Math.abs(b.dataset.x - place))[0];
  }
  if (!next) return;
  dots.forEach((dot) => dot.setAttribute("tabindex", "-1"));
  next.setAttribute("tabindex", "0");
  next.focus();
}
