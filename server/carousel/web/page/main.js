// The frame of the page: tabs, theme, token, and the model's line. Each tab's module starts when it is first shown.

import { get, getToken, onUnknownCaller, setToken } from "./api.js";
import { attempt, find, number } from "./dom.js";
import { startHealth } from "./health.js";
import { startInside } from "./inside.js";
import { startSurprise } from "./surprise.js";
import { startTime } from "./time.js";
import { startWrite } from "./write.js";

const STARTS = { write: startWrite, surprise: startSurprise, time: startTime, inside: startInside, health: startHealth };
const tabs = [...document.querySelectorAll("[role=tab]")];
const parts = {}; // what has started, by name: an object that may have `shown` and `hidden`
let model;

function show(name, { isFocused = false } = {}) {
  for (const tab of tabs) {
    const isChosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    if (isChosen && isFocused) tab.focus();
    const panel = find(tab.getAttribute("aria-controls"));
    if (!isChosen && !panel.hidden) parts[panel.id]?.hidden?.();
    panel.hidden = !isChosen;
  }
  history.replaceState(null, "", `#${name}`);
  if (!model) return;
  parts[name] ??= STARTS[name](model) ?? {};
  parts[name].shown?.();
}

function startTabs() {
  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => show(tab.getAttribute("aria-controls")));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -index, End: tabs.length - 1 - index }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      show(tabs[(index + step + tabs.length) % tabs.length].getAttribute("aria-controls"), { isFocused: true });
    });
  }
}

function startTheme() {
  const button = find("theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  const kept = localStorage.getItem("carousel.theme");
  if (kept) document.documentElement.dataset.theme = kept;
  label();
  prefersDark.addEventListener("change", label);
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("carousel.theme", document.documentElement.dataset.theme);
    label();
    document.dispatchEvent(new CustomEvent("themechange"));
  });
}

let asked = null; // the question that is open, if one is

function askForToken() {
  asked ??= new Promise((resolve) => {
    const dialog = find("token-dialog");
    find("token-value").value = getToken();
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asked = null;
      if (dialog.returnValue === "keep") setToken(find("token-value").value.trim());
      if (dialog.returnValue === "forget") setToken("");
      resolve(dialog.returnValue === "keep");
    }, { once: true });
    dialog.showModal();
  });
  return asked;
}

async function start() {
  startTabs();
  startTheme();
  onUnknownCaller(askForToken);
  find("token").addEventListener("click", async () => { if (await askForToken()) location.reload(); });
  const wanted = location.hash.slice(1);
  const name = Object.hasOwn(STARTS, wanted) ? wanted : "write";
  show(name);
  model = await attempt(() => get("/carousel/v1/model"));
  if (!model) return;
  const size = number(model.num_parameters / 1e6, 1);
  find("model-line").textContent = `${model.name}: ${model.cell}, ${size} million parameters, ${number(model.state_bytes)} bytes a session`;
  document.title = `${model.name} on Carousel`;
  show([...tabs].find((tab) => tab.getAttribute("aria-selected") === "true").getAttribute("aria-controls"));
}

start();
