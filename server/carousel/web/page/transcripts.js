// What this tab has read to sessions and heard from them. The server keeps states, not texts: other tabs' are unknown.

const KEY = "carousel.transcripts";
const MAX_CHARACTERS = 200_000;

// A session that has another one's name is another one.
const keyOf = ({ session_id, create_time }) => `${session_id}@${create_time}`;
const load = () => new Map(JSON.parse(sessionStorage.getItem(KEY) ?? "[]"));

function save(all) {
  let text = JSON.stringify([...all]);
  while (text.length > MAX_CHARACTERS && all.size) { // the oldest go first
    all.delete(all.keys().next().value);
    text = JSON.stringify([...all]);
  }
  sessionStorage.setItem(KEY, text);
}

/** Notes one turn of a session: from a position to another, what was read and what was written. */
export function note(session, from, to, read, written) {
  const all = load(), key = keyOf(session);
  all.set(key, [...(all.get(key) ?? []), { from, to, read, written }]);
  save(all);
}

export function fork(parent, child, position) {
  const all = load(), turns = all.get(keyOf(parent));
  if (!turns) return;
  all.set(keyOf(child), turns.filter((turn) => turn.to <= position));
  save(all);
}

export function cut(session, position) {
  const all = load(), key = keyOf(session);
  if (!all.has(key)) return;
  all.set(key, all.get(key).filter((turn) => turn.to <= position));
  save(all);
}

export function forget(session) {
  const all = load();
  all.delete(keyOf(session));
  save(all);
}

/** Returns the turns up to a position, and whether they are all there are. */
export function until(session, position) {
  const turns = (load().get(keyOf(session)) ?? []).filter((turn) => turn.to <= position);
  let reached = 0, isWhole = true;
  for (const turn of turns) {
    if (turn.from !== reached) isWhole = false;
    reached = turn.to;
  }
  return { turns, isWhole: isWhole && reached === position };
}
