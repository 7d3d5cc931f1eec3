// Installs and updates: a package that is dropped or chosen, or its address.

import { askForToken, byId, headers, messageOf, request } from "./server.js";
import { installed } from "./plugins.js";

let chosen;

export function prepareInstall() {
  byId("install-file").addEventListener("change", (event) => choose(event.target.files[0]));
  byId("install-url").addEventListener("input", (event) => suggest(event.target.value.split(/[?#]/)[0].split("/").pop()));
  byId("install-name").addEventListener("input", nameButton);
  byId("install-form").addEventListener("submit", (event) => {
    event.preventDefault();
    install();
  });
  let depth = 0;
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  const on = (type, handle) => document.addEventListener(type, (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    handle(event);
    byId("drop").hidden = depth === 0;
  });
  on("dragenter", () => { depth += 1; });
  on("dragleave", () => { depth -= 1; });
  on("dragover", () => {});
  on("drop", (event) => {
    depth = 0;
    choose(event.dataTransfer.files[0]);
    byId("install").scrollIntoView({ block: "nearest" });
    byId("install-button").focus();
  });
}

/// Says whether the plugin is installed or updated.
export function nameButton() {
  const isThere = installed().includes(byId("install-name").value);
  byId("install-button").textContent = isThere ? "Update" : "Install";
}

function choose(file) {
  if (!file) return;
  chosen = file;
  byId("install-url").value = "";
  suggest(file.name);
  tell(`${file.name}, ${(file.size / 2 ** 20).toFixed(1)} MiB: not sent yet`);
}

function suggest(fileName) {
  byId("install-name").value = (fileName ?? "").replace(/\.zip$/i, "");
  nameButton();
}

function tell(text, kind = "") {
  const result = byId("install-result");
  result.textContent = text;
  result.className = kind ? `result-${kind}` : "";
}

async function install() {
  const [name, url, button] = [byId("install-name").value.trim(), byId("install-url").value.trim(), byId("install-button")];
  if (!url && !chosen) return tell("Choose a package, or give its address.", "bad");
  button.disabled = true;
  let uploaded;
  try {
    if (!url) uploaded = await upload(chosen);
    tell(`installing ${name}: its program is started and tried…`);
    byId("install-progress").removeAttribute("value");
    const isUpdate = installed().includes(name);
    await request(isUpdate ? `plugins/portables/${encodeURIComponent(name)}` : "plugins/portables", {
      method: isUpdate ? "PUT" : "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name, file: url || `file://${uploaded}` }),
    });
    tell(`plugin ${name} is ${isUpdate ? "updated" : "installed"}`, "good");
    chosen = undefined;
    byId("install-form").reset();
    nameButton();
  } catch (error) {
    tell(error.message, "bad");
  } finally {
    button.disabled = false;
    byId("install-progress").hidden = true;
    if (uploaded) {
      request(`config/uploads/${encodeURIComponent(uploaded.split("/").pop())}`, { method: "DELETE" }).catch(() => {});
    }
  }
}

/// Sends a package; returns its path on the server. `fetch` cannot tell how much
/// was sent.
function upload(file) {
  const form = new FormData();
  form.append("uploadFile", file);
  const bar = byId("install-progress");
  bar.hidden = false;
  tell(`sending ${file.name}…`);
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", "config/uploads");
    for (const [name, value] of Object.entries(headers())) sending.setRequestHeader(name, value);
    sending.upload.onprogress = (event) => { bar.value = event.loaded / event.total; };
    sending.onload = () => {
      if (sending.status === 201) resolve(sending.responseText);
      else if (sending.status === 401) askForToken().then(() => resolve(upload(file)));
      else reject(new Error(messageOf(sending.responseText)));
    };
    sending.onerror = () => reject(new Error("the server has ended the connection"));
    sending.send(form);
  });
}
