// What the plugins and the host log, live.

import { byId, element, linesOf, request } from "./server.js";

/// Number of lines that are shown, and asked for at first.
const LINES = 500;

/// Time until another attempt after the stream has ended, in milliseconds.
const PAUSE = 2000;

let current;

export function prepareLogs() {
  for (const id of ["log-plugin", "log-level"]) byId(id).addEventListener("change", () => current.abort());
  follow();
}

/// Offers these plugins for the filter.
export function offerPlugins(names) {
  const select = byId("log-plugin");
  const value = select.value;
  select.replaceChildren(element("option", { value: "" }, "all"), ...names.map((name) => element("option", { value: name }, name)));
  select.value = names.includes(value) ? value : "";
}

async function follow() {
  for (;;) {
    current = new AbortController();
    const query = new URLSearchParams({ follow: "1", lines: LINES, level: byId("log-level").value });
    if (byId("log-plugin").value) query.set("plugin", byId("log-plugin").value);
    let isFilterChanged = false;
    try {
      const answer = await request(`logs?${query}`, { signal: current.signal });
      byId("log-lines").replaceChildren();
      for await (const line of linesOf(answer)) add(JSON.parse(line));
    } catch (error) {
      isFilterChanged = error.name === "AbortError";
    }
    if (!isFilterChanged) await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

function add({ unix_seconds: at, level, plugin, line }) {
  const list = byId("log-lines");
  const clock = new Date(at * 1000).toLocaleTimeString([], { hour12: false });
  list.append(element("li", { class: level },
    `${clock} ${level.padEnd(5)} `, element("span", { class: "plugin" }, plugin ?? ""), ` ${line}`));
  while (list.children.length > LINES) list.firstChild.remove();
  if (byId("log-follow").checked) list.scrollTop = list.scrollHeight;
}
