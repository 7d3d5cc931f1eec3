// Requests to the server that this page comes from.

const TOKEN = "ekuiper-plugins-token";

export function byId(id) {
  return document.getElementById(id);
}

/// Makes an element; text is never taken for HTML.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function headers() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

let asked;

/// Asks the reader for the token, once for all requests that wait for it.
export function askForToken() {
  asked ??= new Promise((resolve) => {
    const dialog = byId("token");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(TOKEN, byId("token-input").value);
      asked = undefined;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asked;
}

/// Sends a request; an answer that is an error is thrown, with its text.
export async function request(path, options = {}) {
  for (;;) {
    const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
    if (answer.status === 401) {
      await askForToken();
      continue;
    }
    if (!answer.ok) throw new Error(messageOf(await answer.text()) || `the server answers ${answer.status}`);
    return answer;
  }
}

/// The sentence in an error's body.
export function messageOf(body) {
  try {
    return JSON.parse(body).message ?? body.trim();
  } catch {
    return body.trim();
  }
}

/// The lines of an answer, each as soon as it is there.
export async function* linesOf(answer) {
  let rest = "";
  for await (const piece of readerOf(answer.body.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    yield* lines.filter((line) => line !== "");
  }
  if (rest !== "") yield rest;
}

async function* readerOf(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
