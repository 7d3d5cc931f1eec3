//! `install.sh`, which eKuiper runs with `/bin/sh` when it installs the plugin.

use std::path::Path;
use std::time::Duration;

use ekuiper_manager::bounded::{self, Ended};
use ekuiper_manager::script::{self, SCRIPT};

use super::file;
use super::report::{Area, Report};
use crate::interrupt::Interrupt;

/// Maximum time to check the syntax.
const SYNTAX: Duration = Duration::from_secs(10);

/// Maximum time of the script. eKuiper itself sets none.
const PATIENCE: Duration = Duration::from_secs(300);

/// What only some shells have: the text, what it is, and what every shell has.
const BASHISMS: [(&str, &str); 8] = [
    ("[[ ", "use [ … ]"),
    ("<<<", "use echo … |"),
    ("&>", "use >… 2>&1"),
    ("pipefail", "leave it out"),
    ("function ", "write name() { … }"),
    ("source ", "use . FILE"),
    ("declare ", "leave it out"),
    (" == ", "use ="),
];

/// Checks the script without running it.
pub(super) fn check(folder: &Path, interrupt: &Interrupt, report: &mut Report) {
    let path = folder.join(SCRIPT);
    if path.symlink_metadata().is_err() {
        return;
    }
    let bytes = match file::read(&path, file::TEXT) {
        Ok(bytes) => bytes,
        Err(problem) => return report.error(Area::Install, SCRIPT, problem, "replace it, or leave it out"),
    };
    report.fact(Area::Install, "install.sh is run by eKuiper when it installs the plugin");
    if bytes.windows(2).any(|pair| pair == b"\r\n") {
        let text = "has carriage returns at the ends of lines, as files from Windows do: a shell takes them for text";
        report.warning(Area::Install, SCRIPT, text, "save it with Unix line ends");
    }
    let text = String::from_utf8_lossy(&bytes);
    for (index, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let found = BASHISMS.iter().find(|(word, _)| match word.ends_with(' ') && !word.starts_with('[') {
            true => code.starts_with(word),
            false => code.contains(word),
        });
        if let Some((word, instead)) = found.filter(|_| !code.starts_with('#')) {
            let text =
                format!("line {} has {:?}, which not every /bin/sh knows: Debian's does not", index + 1, word.trim());
            report.warning(Area::Install, SCRIPT, text, instead);
        }
    }
    let arguments = ["-n", SCRIPT].map(Into::into);
    match bounded::run(Path::new("/bin/sh"), &arguments, folder, SYNTAX, &|| interrupt.is_set()) {
        Ok((Ended::Status(status), output)) if !status.success() => {
            let text = format!("is no shell script that /bin/sh understands: {output}");
            report.error(Area::Install, SCRIPT, text, "correct it: eKuiper installs no plugin whose script fails");
        }
        _ => {}
    }
}

/// Runs the script, in a folder that is a copy.
pub(super) fn run(folder: &Path, interrupt: &Interrupt, report: &mut Report) {
    if !folder.join(SCRIPT).is_file() {
        return report.note(Area::Install, SCRIPT, "is not there, so --install runs nothing", "");
    }
    match script::run(folder, &[], PATIENCE, &|| interrupt.is_set()) {
        Ok(()) => report.fact(Area::Install, "install.sh has succeeded"),
        Err(problem) => {
            report.error(Area::Install, SCRIPT, problem, "correct it: eKuiper installs no plugin whose script fails");
        }
    }
}
