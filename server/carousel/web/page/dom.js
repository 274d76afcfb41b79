// Small tools for elements. Text is always set as text, never as markup.

export const find = (id) => document.getElementById(id);

/** Makes an element. Attributes whose names begin with "on" are listeners; children are nodes or texts. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Says a text to people who listen. */
export function say(text) {
  find("spoken").textContent = text;
}

export function tellProblem(error) {
  const line = find("problem");
  line.textContent = error ? error.message ?? String(error) : "";
  line.hidden = !error;
}

/** Runs an action and shows what goes wrong. An aborted one is not a problem. */
export async function attempt(action) {
  try {
    tellProblem(null);
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") tellProblem(error);
    return undefined;
  }
}

/** Returns a listener that attempts the action; while the action goes on, it does nothing. */
export function once(action) {
  let isBusy = false;
  return async () => {
    if (isBusy) return;
    isBusy = true;
    try { await attempt(action); } finally { isBusy = false; }
  };
}

export const percent = (logProbability) => {
  const share = Math.exp(logProbability) * 100;
  return share >= 10 ? `${share.toFixed(0)} %` : share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
};

export const number = (value, digits = 0) =>
  Number(value).toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 });

export const bytes = (count) => {
  const units = ["bytes", "KB", "MB", "GB"];
  let size = count, unit = 0;
  while (size >= 1024 && unit < 3) { size /= 1024; unit += 1; }
  return `${number(size, unit ? 1 : 0)} ${units[unit]}`;
};

/** Shows blanks that could not be seen. */
export const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "·") || "∅";
