// The page of the manager.

import { nameButton, prepareInstall } from "./install.js";
import { offerPlugins, prepareLogs } from "./logs.js";
import { installed, watchPlugins } from "./plugins.js";
import { prepareSymbols } from "./symbol.js";

prepareInstall();
prepareSymbols();
prepareLogs();
watchPlugins(() => {
  nameButton();
  offerPlugins(installed());
});
