//! Watching a plugin's files, and updating the running plugin when they change.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ekuiper_core::{Chain, printable};
use ekuiper_host::{Host, Package};

use crate::args::Common;
use crate::console;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::package_files::is_left_out;
use crate::plugin_path::{self, Resolved};
use crate::project::BuildOptions;

/// Interval of the look for changes; a change is taken when there is none from
/// one look to the next, since editors and tools write in several steps.
const LOOK: Duration = Duration::from_millis(250);

/// Maximum number of files that are looked at.
const MOST: usize = 50_000;

/// The plugins that are watched.
pub(crate) struct Watching {
    common: Common,
    options: BuildOptions,
    /// Copies of programs: a build replaces the file that runs, and the host may
    /// have to start the old version again.
    programs: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Watching {
    /// Resolves the plugins at these paths, to be watched from then on.
    ///
    /// # Errors
    /// As [`plugin_path::resolve`]; a zip cannot be watched.
    pub(crate) fn resolve(common: &Common, options: &BuildOptions, paths: &[&Path]) -> Result<(Self, Vec<Resolved>)> {
        let programs = tempfile::Builder::new().prefix("ekuiper-watch-").tempdir();
        let programs = programs.map_err(|source| Error::Read { path: std::env::temp_dir(), source })?;
        let paths: Vec<_> = paths.iter().map(|path| path.to_path_buf()).collect();
        let watching = Self { common: common.clone(), options: options.clone(), programs, paths };
        let resolved = watching.paths.iter().map(|path| watching.version(path, 0)).collect::<Result<_>>()?;
        Ok((watching, resolved))
    }

    /// Builds and reads a version of the plugin.
    fn version(&self, path: &Path, number: u64) -> Result<Resolved> {
        if path.is_file() {
            return Err(Error::IsPackaged { path: path.to_owned() });
        }
        let mut resolved = plugin_path::resolve(path, &self.common, &self.options)?;
        if let Some(program) = &mut resolved.package.program {
            let copy = self.programs.path().join(format!("{}-{number}", resolved.package.name));
            fs::copy(&program, &copy).map_err(|source| Error::Read { path: program.clone(), source })?;
            *program = copy;
        }
        Ok(resolved)
    }

    /// Watches from a thread until the user's interrupt. After each update of a
    /// plugin its name is sent.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(self, host: Arc<Host>, interrupt: Interrupt) -> Result<Receiver<String>> {
        let (tell, told) = channel();
        let watch = move || self.watch(&host, &interrupt, &tell);
        std::thread::Builder::new().name("watch".into()).spawn(watch).map_err(Error::Thread)?;
        Ok(told)
    }

    fn watch(&self, host: &Host, interrupt: &Interrupt, tell: &Sender<String>) {
        let mut states: Vec<_> = self.paths.iter().map(|path| State::of(path)).collect();
        let mut number = 0;
        loop {
            interrupt.wait(LOOK);
            if interrupt.is_set() {
                return;
            }
            for (path, state) in self.paths.iter().zip(&mut states) {
                if let Some(changed) = state.settle(path) {
                    number += 1;
                    console::line(format_args!("{} has changed", printable::excerpt(&changed)));
                    if let Some(name) = self.update(host, interrupt, path, number) {
                        let _ = tell.send(name);
                    }
                }
            }
        }
    }

    /// Updates the plugin; returns its name if that succeeded.
    fn update(&self, host: &Host, interrupt: &Interrupt, path: &Path, number: u64) -> Option<String> {
        let begun = Instant::now();
        let updated = self.version(path, number).and_then(|resolved| {
            let Package { name, .. } = &resolved.package;
            let (name, ready) = (name.clone(), Instant::now());
            host.update(resolved.package)?;
            Ok((name, ready))
        });
        match updated {
            Ok((name, ready)) => {
                let [build, update] = [ready - begun, ready.elapsed()].map(|time| time.as_secs_f64());
                console::line(format_args!("{name} is updated: {build:.1} s to build, {update:.2} s to take over"));
                Some(name)
            }
            Err(_) if interrupt.is_set() => None,
            Err(error) => {
                console::line(format_args!("the old version goes on: {}", Chain(&error)));
                None
            }
        }
    }
}

/// The state of a folder's files.
struct State {
    /// The files as the running version has them.
    running: Files,
    /// The files at the latest look.
    latest: Files,
}

/// A hash of each file's time and length, by its path.
type Files = BTreeMap<PathBuf, u64>;

impl State {
    fn of(path: &Path) -> Self {
        let files = files(path);
        Self { running: files.clone(), latest: files }
    }

    /// Looks at the folder; returns the path of a file that has changed, once
    /// nothing changes any more.
    fn settle(&mut self, path: &Path) -> Option<String> {
        let now = files(path);
        let is_settled = now == self.latest;
        self.latest = now;
        if !is_settled || self.latest == self.running {
            return None;
        }
        let former = std::mem::replace(&mut self.running, self.latest.clone());
        let differs = |from: &Files, to: &Files| {
            from.iter().find(|(path, hash)| to.get(*path) != Some(hash)).map(|(path, _)| path.clone())
        };
        let changed = differs(&self.running, &former).or_else(|| differs(&former, &self.running))?;
        Some(changed.strip_prefix(path).unwrap_or(&changed).display().to_string())
    }
}

fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // What vanishes meanwhile is a change too.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if is_left_out(&entry.file_name().to_string_lossy()) || entry.file_name() == "Cargo.lock" {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if found.len() < MOST {
                let mut hasher = DefaultHasher::new();
                (metadata.modified().ok(), metadata.len()).hash(&mut hasher);
                found.insert(entry.path(), hasher.finish());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("a.py"), "1").unwrap();
        let mut state = State::of(path);
        assert_eq!(state.settle(path), None);
        fs::write(path.join("a.py"), "12").unwrap();
        assert_eq!(state.settle(path), None, "it may still be written");
        fs::write(path.join("a.py"), "123").unwrap();
        assert_eq!(state.settle(path), None, "it may still be written");
        assert_eq!(state.settle(path).as_deref(), Some("a.py"));
        assert_eq!(state.settle(path), None);
        // What tools leave is no change.
        fs::create_dir(path.join("__pycache__")).unwrap();
        fs::write(path.join("__pycache__/a.pyc"), "").unwrap();
        fs::write(path.join("Cargo.lock"), "").unwrap();
        assert_eq!((state.settle(path), state.settle(path)), (None, None));
        fs::remove_file(path.join("a.py")).unwrap();
        assert_eq!((state.settle(path), state.settle(path).as_deref()), (None, Some("a.py")));
    }
}
