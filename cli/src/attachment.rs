//! A plugin that the user starts: what to type for that, and what happens to it
//! meanwhile, told on stderr.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ekuiper_core::address::{DEFAULT_FOLDER, SocketFolder};
use ekuiper_core::description::Description;
use ekuiper_core::launch::LaunchOptions;
use ekuiper_core::message::Hello;
use ekuiper_core::printable;
use ekuiper_core::sync::lock;
use ekuiper_host::{Event, EventKind, Host, SymbolHealth, SymbolKind};

use crate::args::Common;
use crate::console;
use crate::error::{Error, Result, excerpt};
use crate::plugin_name;
use crate::process_state;
use crate::progress::counted;

/// Time without an answer after which the user is told that the command waits.
const QUIET: Duration = Duration::from_secs(5);

/// Maximum number of symbols named in a message.
const NAMED: usize = 20;

/// A plugin that the user starts.
#[derive(Debug)]
pub(crate) struct Attachment {
    name: String,
    /// The plugin's only argument, which tells it what the host supports.
    argument: String,
    /// Socket folder that the user has chosen.
    folder: Option<PathBuf>,
    /// Maximum time until the plugin comes, or is back.
    wait: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when the plugin is waited for.
    away_since: Option<Instant>,
    /// It was told what to start.
    is_explained: bool,
    /// The plugin has gone, which was not told yet.
    has_gone: bool,
    /// The plugin did not come in time.
    has_given_up: bool,
    /// It was told that the plugin does not answer.
    is_quiet: bool,
    /// Since when the plugin's process is stopped, and whether that was told.
    stopped: Option<(Instant, bool)>,
}

impl Attachment {
    /// Checks the name that the user gives.
    ///
    /// # Errors
    /// [`Error::AttachedName`] for a path, or what no socket can be called.
    pub(crate) fn new(name: &str, wait: Option<Duration>, common: &Common) -> Result<Self> {
        let folder = common.ipc_dir.clone();
        if let Some(problem) = problem(name, folder.clone().unwrap_or_else(|| DEFAULT_FOLDER.into())) {
            return Err(Error::AttachedName { name: excerpt(format!("{name:?}").as_bytes(), 0), problem });
        }
        let mut launch = LaunchOptions::default();
        launch.hello = Some(Hello::VERSION);
        // One process, which the debugger has from its start.
        launch.supervises = true;
        launch.ipc_dir.clone_from(&folder);
        launch.transport = common.transport.clone().filter(|transport| transport != "uds");
        let argument = launch.to_argument().map_err(|source| Error::AttachedName {
            name: name.to_owned(),
            problem: format!("its socket folder cannot be told to it: {source}"),
        })?;
        Ok(Self { name: name.to_owned(), argument, folder, wait, state: Mutex::default() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the folder or zip at a path looks like the plugin's own,
    /// which need not be there.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        path.file_stem().is_some_and(|stem| *stem == *self.name) || path.join(format!("{}.json", self.name)).is_file()
    }

    /// Reports an event of the plugin in the words of its user.
    pub(crate) fn tell(&self, event: &Event) {
        let name = &self.name;
        let mut state = lock(&self.state);
        match &event.kind {
            EventKind::Awaited { address } => {
                state.away_since.get_or_insert_with(Instant::now);
                if !std::mem::replace(&mut state.is_explained, true) {
                    console::tell(self.explanation(address));
                } else if std::mem::take(&mut state.has_gone) {
                    console::tell(format_args!(
                        "plugin {name} has gone: waiting until you start it again, with the same argument"
                    ));
                }
            }
            EventKind::Started { .. } => state.away_since = None,
            EventKind::Crashed { .. } => {
                // Told once another process can connect.
                (state.away_since, state.stopped, state.has_gone) = (Some(Instant::now()), None, true);
            }
            EventKind::Restored { pid, symbols, .. } => {
                state.away_since = None;
                let symbols = counted(*symbols as u64, "symbol");
                console::tell(format_args!("plugin {name} is back (pid {pid}), and goes on with {symbols}"));
            }
            EventKind::RestartFailed { error } => console::tell(error),
            EventKind::BackingOff { .. } => {}
            _ => console::tell(event),
        }
    }

    /// Says that the plugin has come, and what it says of itself.
    pub(crate) fn welcome(&self, pid: Option<u32>, description: Option<&Description>) {
        let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let said = match description {
            Some(description) => format!(": {}", summary(description)),
            None => "; it does not describe itself, as one on an official SDK or without \"hello\":1 in its argument \
                     does not"
                .into(),
        };
        console::tell(format_args!("plugin {} has come{pid}{said}", self.name));
    }

    /// Looks at the plugin: whether it was waited for too long, and whether it
    /// answers. Returns whether the wait is over.
    pub(crate) fn look(&self, host: &Host) -> bool {
        let mut state = lock(&self.state);
        if let (Some(since), Some(wait)) = (state.away_since, self.wait)
            && since.elapsed() >= wait
        {
            state.has_given_up = true;
            return true;
        }
        drop(state);
        self.look_for_a_stop(host);
        self.look_for_answers(host);
        false
    }

    /// Says when a debugger, or a signal, has stopped the plugin's process for
    /// longer than a step takes.
    fn look_for_a_stop(&self, host: &Host) {
        let pid = host.pid(&self.name);
        let mut state = lock(&self.state);
        match (pid.filter(|pid| is_stopped(*pid)), &mut state.stopped) {
            (None, stopped) => *stopped = None,
            (Some(_), None) => state.stopped = Some((Instant::now(), false)),
            (Some(pid), Some((since, is_told))) if !*is_told && since.elapsed() >= Duration::from_secs(1) => {
                *is_told = true;
                console::tell(format_args!(
                    "plugin {} is stopped (pid {pid}), by a debugger or a signal: waiting until it goes on",
                    self.name
                ));
            }
            _ => {}
        }
    }

    /// Says when a call or a message is not answered, as at a breakpoint.
    fn look_for_answers(&self, host: &Host) {
        let symbols = host.status(&self.name).map(|status| status.symbols).unwrap_or_default();
        let is_late =
            |symbol: &&SymbolHealth| symbol.kind != SymbolKind::Source && symbol.lag.is_some_and(|lag| lag >= QUIET);
        let late = symbols.iter().find(is_late);
        let mut state = lock(&self.state);
        let was_quiet = std::mem::replace(&mut state.is_quiet, late.is_some());
        if let (Some(late), false, None, None) = (late, was_quiet, state.away_since, state.stopped) {
            let SymbolHealth { kind, name, .. } = late;
            console::tell(format_args!(
                "{kind} {name} has not answered for {QUIET:?}: waiting, for as long as it takes at a breakpoint \
                 (--recv-timeout sets a limit)"
            ));
        }
    }

    /// Returns the error of a wait that was too long.
    pub(crate) fn given_up(&self) -> Option<Error> {
        let wait = self.wait.filter(|_| lock(&self.state).has_given_up)?;
        Some(Error::NotCome { name: self.name.clone(), wait })
    }

    /// What to start, and how.
    fn explanation(&self, address: &str) -> String {
        let (name, argument) = (&self.name, quoted(&self.argument));
        let (program, built) = (word(&format!("./{name}")), word(&format!("target/debug/{name}")));
        let script = word(&format!("{}.py", plugin_name::identifier(name)));
        let note = match &self.folder {
            Some(folder) if folder.as_os_str() != DEFAULT_FOLDER => {
                format!("\n(A plugin on an official SDK knows no other socket folder than {DEFAULT_FOLDER}.)")
            }
            _ => String::new(),
        };
        format!(
            "waiting for plugin {name} at {address}: start it in another terminal, in its own folder, with one argument\n\
             Rust:    cargo run -- {argument}\n\
             gdb:     gdb --args {built} {argument}\n\
             Go:      {program} {argument}\n\
             Python:  python -u {script} {argument}\n\
             debugpy: python -m debugpy --listen 5678 --wait-for-client {script} {argument}{note}"
        )
    }
}

/// Quotes a text for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns a word of a command line, quoted if a shell would change it.
fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "./_-".contains(letter);
    if text.chars().all(is_plain) { text.to_owned() } else { quoted(text) }
}

/// Says why no plugin can be waited for by this name.
fn problem(name: &str, folder: PathBuf) -> Option<String> {
    const WANTED: &str =
        "give the name that the plugin has in its code: Plugin::new(\"NAME\"), PluginConfig(\"NAME\", …)";
    let is_zip = || name.len() > 4 && name.to_ascii_lowercase().ends_with(".zip");
    if name.is_empty() {
        Some(format!("it is empty; {WANTED}"))
    } else if name.contains('/') || [".", ".."].contains(&name) || is_zip() {
        Some(format!("it is a path, and the command starts nothing here; {WANTED}"))
    } else if name.contains(printable::is_unprintable) {
        Some(format!("it contains control characters; {WANTED}"))
    } else {
        SocketFolder::new(folder).control(name).err().map(|error| error.to_string())
    }
}

/// Returns whether a process is stopped by a signal, or in a debugger.
fn is_stopped(pid: u32) -> bool {
    matches!(process_state::of(pid), Some('t' | 'T'))
}

/// Names a plugin's SDK and symbols.
fn summary(description: &Description) -> String {
    let names = |kind: &str, names: Vec<&str>| {
        let plural = if names.len() == 1 { "" } else { "s" };
        (!names.is_empty()).then(|| format!("{kind}{plural} {}", printable::some_of(&names, NAMED)))
    };
    let functions = description.functions.iter().map(|function| function.name.as_str()).collect();
    let sources = description.sources.iter().map(|source| source.name.as_str()).collect();
    let sinks = description.sinks.iter().map(|sink| sink.name.as_str()).collect();
    let all = [names("function", functions), names("source", sources), names("sink", sinks)];
    let all = all.into_iter().flatten().collect::<Vec<_>>().join("; ");
    if all.is_empty() { "it serves nothing".into() } else { all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_a_socket_can_be_called() {
        let problem = |name: &str| problem(name, "/tmp".into());
        for good in ["mirror", "my-plugin", "zip", "ä", "a b"] {
            assert_eq!(problem(good), None, "{good}");
        }
        for (bad, said) in [
            ("", "it is empty"),
            ("./mirror", "it is a path"),
            ("a/b", "it is a path"),
            (".", "it is a path"),
            ("..", "it is a path"),
            ("mirror.ZIP", "it is a path"),
            ("a\u{1b}[2J", "control characters"),
            (&*"x".repeat(300), "bytes"),
        ] {
            assert!(problem(bad).unwrap().contains(said), "{bad}: {:?}", problem(bad));
        }
    }

    #[test]
    fn a_quote_in_a_folder_survives_the_shell() {
        assert_eq!((word("./my-plugin"), word("./a b")), ("./my-plugin".into(), "'./a b'".into()));
        assert_eq!(quoted("{\"ipcDir\":\"/it's\"}"), r#"'{"ipcDir":"/it'\''s"}'"#);
    }
}
