// Calls to the server that sent this page. The token, if one is needed, lives in sessionStorage.

const KEY = "carousel.token";
let askForToken = async () => false;

export const getToken = () => sessionStorage.getItem(KEY) ?? "";
export const setToken = (token) => (token ? sessionStorage.setItem(KEY, token) : sessionStorage.removeItem(KEY));

/** `ask` returns whether there is a new token to try. */
export function onUnknownCaller(ask) {
  askForToken = ask;
}

export class Refused extends Error {
  constructor(status, error) {
    super(error.message ?? `status ${status}`);
    this.name = "Refused";
    this.status = status;
    this.code = error.code ?? "";
    this.param = error.param ?? "";
    this.details = error.details ?? {};
  }
}

export async function call(method, path, body, { signal, keepalive } = {}) {
  const response = await send(method, path, body, { signal, keepalive });
  return response.json();
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body, options) => call("POST", path, body, options);

/** Yields the events of a streamed answer. An error inside of the stream is thrown. */
export async function* stream(path, body, { signal } = {}) {
  const response = await send("POST", path, { ...body, stream: true }, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("the answer ended early");
      rest += value;
      const events = rest.split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const content = event.slice("data: ".length);
        if (content === "[DONE]") return;
        const found = JSON.parse(content);
        if (found.error) throw new Refused(response.status, found.error);
        yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function send(method, path, body, options, isLastTry = false) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (getToken()) headers.authorization = `Bearer ${getToken()}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  if (response.ok) return response;
  if (response.status === 401 && !isLastTry && (await askForToken())) return send(method, path, body, options, true);
  const told = await response.json().catch(() => ({}));
  throw new Refused(response.status, told.error ?? {});
}
