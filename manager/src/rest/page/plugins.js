// The plugins, their symbols, and what they do at the moment.

import { byId, element, request } from "./server.js";
import { openSymbol } from "./symbol.js";

/// Time between two looks, in milliseconds.
const PAUSE = 1000;

/// Number of looks that a chart shows.
const WIDTH = 60;

const KINDS = { functions: "function", sources: "source", sinks: "sink" };
const GOOD = ["running"];
const BAD = ["failed", "broken", "unusable", "crashed"];

/// The cards on the page, by the plugin's name.
const cards = new Map();

/// Names of the plugins that are installed.
export function installed() {
  return [...cards.keys()];
}

/// Shows the plugins, again and again.
export async function watchPlugins(onChange) {
  for (;;) {
    try {
      const answer = await request("plugins");
      const plugins = await answer.json();
      show(plugins, onChange);
      const running = plugins.filter((plugin) => GOOD.includes(plugin.state)).length;
      say(plugins.length === 0 ? "none is installed" : `${running} of ${plugins.length} running`, false);
    } catch (error) {
      say(`the server does not answer: ${error.message}`, true);
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

function say(text, isBad) {
  const summary = byId("summary");
  if (summary.textContent !== text) summary.textContent = text;
  summary.classList.toggle("bad", isBad);
}

function show(plugins, onChange) {
  const section = byId("plugins");
  const names = new Set(plugins.map((plugin) => plugin.name));
  let isChanged = false;
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    card.root.remove();
    cards.delete(name);
    isChanged = true;
  }
  for (const plugin of plugins) {
    if (!cards.has(plugin.name)) {
      cards.set(plugin.name, new Card(plugin.name));
      isChanged = true;
    }
    cards.get(plugin.name).update(plugin);
  }
  // In the order of the server, which may put a new one between others.
  plugins.forEach((plugin, place) => {
    const { root } = cards.get(plugin.name);
    if (section.children[place] !== root) section.insertBefore(root, section.children[place] ?? null);
  });
  section.querySelector(".empty")?.remove();
  if (plugins.length === 0) {
    section.append(element("p", { class: "empty" }, "No plugin is installed yet: drop a package here."));
  }
  if (isChanged) onChange();
}

class Card {
  constructor(name) {
    this.name = name;
    this.rates = [];
    this.version = element("span", { class: "version" });
    this.state = element("span", { class: "state" });
    this.facts = element("p", { class: "facts" });
    this.failure = element("p", { class: "failure", hidden: "" });
    this.line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    this.rate = element("figcaption");
    this.symbols = element("div", { class: "symbols" });
    this.rows = element("tbody");
    this.table = element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Figures", hidden: "" }, element("table", {},
      element("thead", {}, element("tr", {}, ...["symbol", "out", "in", "errors", "p50", "p99", "queue"].map(
        (title) => element("th", { scope: "col" }, title)))), this.rows));
    this.root = element("article", { "data-plugin": name },
      element("header", {}, element("h2", {}, name), this.version, this.state),
      this.facts, this.failure, this.chart(), this.symbols, this.table,
      element("button", { type: "button", class: "quiet", onclick: () => this.remove() }, "Remove…"));
  }

  chart() {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [key, value] of [["viewBox", `0 0 ${WIDTH - 1} 100`], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) {
      svg.setAttribute(key, value);
    }
    svg.append(this.line);
    return element("figure", {}, svg, this.rate);
  }

  update(plugin) {
    setText(this.version, plugin.version ?? "");
    setText(this.state, plugin.state);
    const kind = GOOD.includes(plugin.state) ? "good" : BAD.includes(plugin.state) ? "bad" : "warn";
    this.state.className = `state ${kind}`;
    setText(this.facts, factsOf(plugin));
    this.failure.hidden = !plugin.last_error;
    setText(this.failure, plugin.last_error ? lastError(plugin.last_error) : "");
    this.showSymbols(plugin);
    this.showFigures(plugin.symbols ?? []);
    this.showRate(plugin.totals ?? []);
  }

  showSymbols(plugin) {
    const wanted = Object.entries(KINDS).flatMap(([list, kind]) => (plugin[list] ?? []).map((name) => [kind, name]));
    const key = JSON.stringify(wanted);
    if (key === this.shown) return;
    this.shown = key;
    this.symbols.replaceChildren(...wanted.map(([kind, name]) => element("button", {
      type: "button", "data-kind": kind, "data-symbol": name, onclick: () => openSymbol(kind, name),
    }, `${VERBS[kind]} ${name}`)));
  }

  showFigures(symbols) {
    this.table.hidden = symbols.length === 0;
    this.rows.replaceChildren(...symbols.map((symbol) => {
      const errors = Object.values(symbol.errors).reduce((sum, count) => sum + count, 0);
      const rule = symbol.rule ? ` (${symbol.rule})` : "";
      return element("tr", {}, ...[
        `${symbol.kind} ${symbol.name}${rule}`, count(symbol.rows_out), count(symbol.rows_in), count(errors),
        time(symbol.latency?.p50), time(symbol.latency?.p99), symbol.queue === null ? "" : count(symbol.queue),
      ].map((text) => element("td", {}, text)));
    }));
  }

  /// Adds the rows since the last look to the chart.
  showRate(symbols) {
    const now = performance.now();
    const totals = new Map(symbols.map((symbol) => [
      `${symbol.kind} ${symbol.name}`,
      symbol.kind === "sink" ? symbol.rows_out : symbol.rows_in,
    ]));
    if (this.looked) {
      let rows = 0;
      // A count that is smaller than before is that of a plugin installed again.
      for (const [key, total] of totals) rows += Math.max(0, total - (this.totals.get(key) ?? 0));
      this.rates.push(rows / ((now - this.looked) / 1000));
      this.rates = this.rates.slice(-WIDTH);
    }
    [this.looked, this.totals] = [now, totals];
    const most = Math.max(1, ...this.rates);
    const points = this.rates.map((rate, at) => `${WIDTH - this.rates.length + at} ${98 - 96 * rate / most}`);
    this.line.setAttribute("d", points.length > 1 ? `M ${points.join(" L ")}` : "");
    setText(this.rate, `${count(Math.round(this.rates.at(-1) ?? 0))} rows/s`);
  }

  async remove() {
    if (!confirm(`Remove plugin ${this.name}?`)) return;
    const path = `plugins/portables/${encodeURIComponent(this.name)}`;
    try {
      await request(path, { method: "DELETE" });
    } catch (error) {
      if (!confirm(`${error.message}\n\nStop what uses it, and remove it?`)) return;
      await request(`${path}?users=stop`, { method: "DELETE" }).catch((problem) => alert(problem.message));
    }
  }
}

const VERBS = { function: "Call", source: "Read", sink: "Feed" };

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function factsOf(plugin) {
  const facts = [];
  if (plugin.language) facts.push(plugin.language);
  if (plugin.pid) facts.push(`pid ${plugin.pid}`);
  if (plugin.uptime !== null && plugin.uptime !== undefined) facts.push(`up ${duration(plugin.uptime)}`);
  if (plugin.resident) facts.push(`${(plugin.resident / 2 ** 20).toFixed(1)} MiB`);
  if (plugin.restarts) facts.push(`${count(plugin.restarts)} ${plugin.restarts === 1 ? "restart" : "restarts"}`);
  if (plugin.crashes) facts.push(`${count(plugin.crashes)} ${plugin.crashes === 1 ? "crash" : "crashes"}`);
  return facts.join(" · ");
}

function lastError({ text, at }) {
  return at ? `${new Date(at * 1000).toLocaleTimeString()}: ${text}` : text;
}

function count(number) {
  return number.toLocaleString("en");
}

/// A time in seconds, in a few letters.
function time(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(1)} ms`;
  return `${seconds.toFixed(2)} s`;
}

function duration(seconds) {
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}
