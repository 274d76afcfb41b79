// What this tab has read to sessions and heard from them. The server keeps states, not texts: other tabs' are unknown.

const KEY = "carousel.transcripts";
const MAX_CHARACTERS = 200_000;

const load = () => JSON.parse(sessionStorage.getItem(KEY) ?? "{}");

function save(all) {
  let text = JSON.stringify(all);
  while (text.length > MAX_CHARACTERS && Object.keys(all).length) { // the oldest go first
    delete all[Object.keys(all)[0]];
    text = JSON.stringify(all);
  }
  sessionStorage.setItem(KEY, text);
}

/** Notes one turn: from a position to another, what was read and what was written. */
export function note(session, from, to, read, written) {
  const all = load();
  (all[session] ??= []).push({ from, to, read, written });
  save(all);
}

export function fork(parent, child, position) {
  const all = load();
  if (!all[parent]) return;
  all[child] = all[parent].filter((turn) => turn.to <= position);
  save(all);
}

export function cut(session, position) {
  const all = load();
  if (!all[session]) return;
  all[session] = all[session].filter((turn) => turn.to <= position);
  save(all);
}

export function forget(session) {
  const all = load();
  delete all[session];
  save(all);
}

/** Returns the turns up to a position, and whether they are all there are. */
export function until(session, position) {
  const turns = (load()[session] ?? []).filter((turn) => turn.to <= position);
  let reached = 0, isWhole = true;
  for (const turn of turns) {
    if (turn.from !== reached) isWhole = false;
    reached = turn.to;
  }
  return { turns, isWhole: isWhole && reached === position };
}
