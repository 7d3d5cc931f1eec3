//! Watching a plugin's files, and updating the running plugin when they change.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use ekuiper_core::{Chain, printable};
use ekuiper_host::{Host, Package};
use ekuiper_manager::Scratch;
use ekuiper_manager::archive::is_left_out;

use crate::args::Common;
use crate::console;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::plugin_path::{self, Resolved};
use crate::project::BuildOptions;

/// Interval of the look for changes; a change is taken when there is none from
/// one look to the next, since editors and tools write in several steps.
const LOOK: Duration = Duration::from_millis(250);

/// Maximum number of files that are looked at.
const MOST: usize = 50_000;

/// Copies of programs: a build replaces the file that runs, and the host may
/// have to start the old version again. Dropping it removes them.
pub(crate) struct Programs(Arc<Mutex<Option<Scratch>>>);

impl Programs {
    fn new() -> Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Some(Scratch::new("watch")?)))))
    }

    /// Copies a program, unless the command ends.
    fn copy(&self, program: &Path, name: &str) -> Result<PathBuf> {
        // Locked, so that nothing is written while the folder is removed.
        let folder = lock(&self.0);
        let copy = folder.as_ref().ok_or(Error::Interrupted)?.path().join(name);
        fs::copy(program, &copy).map_err(|source| Error::Read { path: program.to_owned(), source })?;
        Ok(copy)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        drop(lock(&self.0).take());
    }
}

/// The plugins that are watched.
pub(crate) struct Watching {
    common: Common,
    options: BuildOptions,
    programs: Programs,
    plugins: Vec<Watched>,
}

/// A plugin that is watched.
struct Watched {
    path: PathBuf,
    name: String,
    /// The files that the running version was made of.
    state: State,
    /// The copy of the running version's program.
    program: Option<PathBuf>,
}

impl Watching {
    /// Resolves the plugins at these paths, to be watched from then on.
    ///
    /// # Errors
    /// As [`plugin_path::resolve`]; a zip cannot be watched.
    pub(crate) fn resolve(common: &Common, options: &BuildOptions, paths: &[&Path]) -> Result<(Self, Vec<Resolved>)> {
        // What is edited during the first build is a change.
        let states: Vec<_> = paths.iter().map(|path| State::of(path)).collect();
        let mut watching =
            Self { common: common.clone(), options: options.clone(), programs: Programs::new()?, plugins: Vec::new() };
        let mut versions = Vec::new();
        for (path, state) in paths.iter().zip(states) {
            let resolved = watching.version(path, 0)?;
            let Package { name, program, .. } = resolved.package.clone();
            watching.plugins.push(Watched { path: path.to_path_buf(), name, state, program });
            versions.push(resolved);
        }
        Ok((watching, versions))
    }

    /// Builds and reads a version of the plugin.
    fn version(&self, path: &Path, number: u64) -> Result<Resolved> {
        if path.is_file() {
            return Err(Error::IsPackaged { path: path.to_owned() });
        }
        let mut resolved = plugin_path::resolve(path, &self.common, &self.options)?;
        if let Some(program) = &mut resolved.package.program {
            *program = self.programs.copy(program, &format!("{}-{number}", resolved.package.name))?;
        }
        Ok(resolved)
    }

    /// Watches from a thread until the user's interrupt. After each update of a
    /// plugin its name is sent. What is returned beside is dropped at the
    /// command's end, whatever the thread does then.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(mut self, host: Arc<Host>, interrupt: Interrupt) -> Result<(Receiver<String>, Programs)> {
        let (tell, told) = channel();
        let programs = Programs(self.programs.0.clone());
        let mut plugins = std::mem::take(&mut self.plugins);
        for Watched { path, state, .. } in &plugins {
            if state.running.len() >= MOST {
                console::line(format_args!(
                    "{} has more than {MOST} files: changes of further ones are not seen",
                    path.display()
                ));
            }
        }
        let watch = move || self.watch(&host, &interrupt, &mut plugins, &tell);
        std::thread::Builder::new().name("watch".into()).spawn(watch).map_err(Error::Thread)?;
        Ok((told, programs))
    }

    fn watch(&self, host: &Host, interrupt: &Interrupt, plugins: &mut [Watched], tell: &Sender<String>) {
        let mut number = 0;
        loop {
            interrupt.wait(LOOK);
            if interrupt.is_set() {
                return;
            }
            for plugin in &mut *plugins {
                if let Some(changed) = plugin.state.settle(&plugin.path) {
                    number += 1;
                    console::line(format_args!("{} has changed", printable::excerpt(&changed)));
                    if let Some(name) = self.update(host, interrupt, plugin, number) {
                        let _ = tell.send(name);
                    }
                }
            }
        }
    }

    /// Updates the plugin; returns its name if that succeeded.
    fn update(&self, host: &Host, interrupt: &Interrupt, plugin: &mut Watched, number: u64) -> Option<String> {
        let begun = Instant::now();
        let updated = self.version(&plugin.path, number).and_then(|resolved| {
            let Package { name, program, .. } = &resolved.package;
            let (name, program, ready) = (name.clone(), program.clone(), Instant::now());
            if name != plugin.name {
                let _ = program.map(fs::remove_file);
                return Err(Error::Renamed { name: plugin.name.clone(), to: name });
            }
            let updated = host.update(resolved.package);
            // Of the two versions, one goes on.
            let ended = if updated.is_ok() { std::mem::replace(&mut plugin.program, program) } else { program };
            let _ = ended.map(fs::remove_file);
            updated?;
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

/// A hash of what changes with each file, by its path.
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
    // Links may lead back.
    let mut seen = HashSet::new();
    while let Some(folder) = folders.pop() {
        // What vanishes meanwhile is a change too.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if is_left_out(&entry.file_name().to_string_lossy()) || entry.file_name() == "Cargo.lock" {
                continue;
            }
            // What a link leads to counts, not the link.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if metadata.is_dir() {
                if seen.insert((metadata.dev(), metadata.ino())) {
                    folders.push(entry.path());
                }
            } else if found.len() < MOST {
                let mut hasher = DefaultHasher::new();
                // The time of the last write may be set, and the inode's not.
                (metadata.dev(), metadata.ino(), metadata.len(), metadata.modified().ok()).hash(&mut hasher);
                (metadata.ctime(), metadata.ctime_nsec()).hash(&mut hasher);
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

    #[test]
    fn what_links_lead_to_is_seen_and_loops_end() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = folder.path();
        fs::create_dir(outside.path().join("lib")).unwrap();
        fs::write(outside.path().join("lib/a.py"), "1").unwrap();
        fs::write(outside.path().join("b.py"), "1").unwrap();
        std::os::unix::fs::symlink(outside.path().join("lib"), path.join("lib")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("b.py"), path.join("b.py")).unwrap();
        std::os::unix::fs::symlink(path, path.join("loop")).unwrap();
        std::os::unix::fs::symlink("nowhere", path.join("dangling")).unwrap();
        let mut state = State::of(path);
        assert_eq!(state.settle(path), None);
        for (file, seen) in [("lib/a.py", "lib/a.py"), ("b.py", "b.py")] {
            fs::write(outside.path().join(file), "12").unwrap();
            let told = [state.settle(path), state.settle(path)];
            assert!(told[1].as_deref().is_some_and(|told| told.ends_with(seen)), "{told:?}");
        }
    }

    #[test]
    fn a_file_that_is_as_long_and_as_old_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = (folder.path(), folder.path().join("a.py"));
        fs::write(&file, "old").unwrap();
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        let mut state = State::of(path);
        // As `cp --preserve` and an editor that writes another file and renames it.
        fs::write(path.join(".new"), "new").unwrap();
        fs::File::options().write(true).open(path.join(".new")).unwrap().set_modified(time).unwrap();
        fs::rename(path.join(".new"), &file).unwrap();
        assert_eq!((state.settle(path), state.settle(path).as_deref()), (None, Some("a.py")));
    }

    #[test]
    fn a_folder_that_goes_and_comes_back_is_two_changes() {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("plugin");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.py"), "1").unwrap();
        let mut state = State::of(&path);
        fs::rename(&path, outside.path().join("away")).unwrap();
        assert_eq!((state.settle(&path), state.settle(&path).as_deref()), (None, Some("a.py")));
        fs::rename(outside.path().join("away"), &path).unwrap();
        assert_eq!((state.settle(&path), state.settle(&path).as_deref()), (None, Some("a.py")));
    }
}
