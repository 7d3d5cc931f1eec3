// The dialog in which a function is called, a source read, or a sink fed.

import { byId, linesOf, request } from "./server.js";

/// Number of lines that are kept.
const LINES = 500;

const WORDS = {
  function: { title: "Function", go: "Call", input: "Arguments, as a JSON array; several lines are several calls", sample: '["hello"]' },
  source: { title: "Source", go: "Read" },
  sink: { title: "Sink", go: "Send", input: "Rows, one JSON object a line", sample: '{"n": 1}' },
};

const NDJSON = { "Content-Type": "application/x-ndjson" };

let open;
let running;

export function openSymbol(kind, name) {
  open = { kind, name };
  const words = WORDS[kind];
  byId("symbol-title").textContent = `${words.title} ${name}`;
  byId("symbol-go").textContent = words.go;
  byId("symbol-topic-label").hidden = kind !== "source";
  byId("symbol-settings-label").hidden = kind === "function";
  byId("symbol-input-label").hidden = kind === "source";
  byId("symbol-input-name").textContent = words.input ?? "";
  byId("symbol-input").placeholder = words.sample ?? "";
  for (const id of ["symbol-topic", "symbol-settings", "symbol-input"]) byId(id).value = "";
  clear();
  byId("symbol").showModal();
}

export function prepareSymbols() {
  byId("symbol-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else go();
  });
  byId("symbol-close").addEventListener("click", () => byId("symbol").close());
  // Escape closes it, too.
  byId("symbol").addEventListener("close", () => running?.abort());
}

async function go() {
  const { kind, name } = open;
  clear();
  running = new AbortController();
  byId("symbol-go").textContent = "Stop";
  try {
    const answer = await ask(kind, name, running.signal);
    for await (const line of linesOf(answer)) add(line);
  } catch (error) {
    if (error.name !== "AbortError") add(`Error: ${error.message}`);
  } finally {
    running = undefined;
    byId("symbol-go").textContent = WORDS[open.kind].go;
  }
}

function ask(kind, name, signal) {
  const input = byId("symbol-input").value.trim();
  const lines = input.split("\n").filter((line) => line.trim() !== "");
  const path = encodeURIComponent(name);
  const query = new URLSearchParams();
  const settings = byId("symbol-settings").value.trim();
  if (settings) query.set("config", settings);
  switch (kind) {
    case "function":
      return lines.length > 1
        ? request(`functions/${path}`, { method: "POST", body: `${lines.join("\n")}\n`, headers: NDJSON, signal })
        : request(`functions/${path}`, { method: "POST", body: input || "[]", headers: { "Content-Type": "application/json" }, signal });
    case "source":
      if (byId("symbol-topic").value) query.set("datasource", byId("symbol-topic").value);
      return request(`sources/${path}?${query}`, { signal });
    default:
      return request(`sinks/${path}?${query}`, { method: "POST", body: `${lines.join("\n")}\n`, headers: NDJSON, signal });
  }
}

let lines = [];
let total = 0;
let isDue = false;

function clear() {
  [lines, total] = [[], 0];
  draw();
}

function add(line) {
  total += 1;
  lines.push(line);
  if (lines.length > LINES) lines.shift();
  if (isDue) return;
  isDue = true;
  // A fast source sends more lines than a screen can show.
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function draw() {
  const output = byId("symbol-output");
  output.textContent = lines.join("\n");
  output.scrollTop = output.scrollHeight;
  byId("symbol-count").textContent = total > 1 ? `${total.toLocaleString("en")} lines` : "";
}
