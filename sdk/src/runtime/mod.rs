//! The process that serves an engine: launch, control channel, orderly shutdown.
//!
//! `control` reads the commands, `command` names what one addresses, and
//! `symbols` starts and stops symbols; `live` is a symbol's thread as the control
//! thread sees it; `source`, `sink` and `function` run on that thread;
//! `functions` connects functions that a stock engine does not start again;
//! `channel` drives a request channel; `site` is what all of them communicate
//! by: `built_in` has the transports, `listening` the sockets of sinks, and
//! `engine` the process whose rows they accept; `watchdog` notices signals and
//! the parent's death; `no_engine` explains why no engine answers; `bell` wakes
//! the control thread; `log` writes to stderr; `supervised` splits the plugin
//! into two processes.

mod bell;
mod built_in;
mod channel;
mod command;
mod control;
mod engine;
mod function;
mod functions;
mod listening;
mod live;
mod log;
mod no_engine;
mod sink;
mod site;
mod source;
mod supervised;
mod symbols;
mod watchdog;

use std::process::ExitCode;

use ekuiper_core::address::{DEFAULT_FOLDER, SocketFolder};
use ekuiper_core::launch::LaunchOptions;
use ekuiper_core::message::Hello;
use ekuiper_core::transport::Options;
use rustix::io::Errno;

use crate::Result;
use crate::cancel::CancelTable;
use crate::definition::Definition;
use crate::error::text_of;
use built_in::BuiltIn;
use engine::Engine;
use listening::Listening;
use site::Site;

#[cfg(not(any(feature = "uds", feature = "nng", feature = "zeromq", feature = "shm")))]
compile_error!(
    "ekuiper-sdk needs a transport: enable its feature \"uds\" (the default), \"nng\", \"zeromq\" or \"shm\""
);

pub(crate) fn run(plugin: Definition, arguments: Vec<String>) -> ExitCode {
    let name = plugin.name.clone();
    if let Some(mistake) = plugin.mistake() {
        log::tell(&format!("plugin {name}: {mistake}"));
        return ExitCode::FAILURE;
    }
    let launch = match launch_options(&arguments) {
        Ok(launch) => launch,
        Err(text) => {
            log::tell(&format!("{name} {text}"));
            return ExitCode::from(2);
        }
    };
    log::init(launch.log_level.as_deref());
    let mut options = Options::default();
    // What its receiver refuses is an error of its sender.
    options.max_message = plugin.limits.max_message.min(launch.max_message.unwrap_or(usize::MAX));
    options.spin = plugin.limits.spin;
    let transport = match BuiltIn::choose(launch.transport.as_deref()) {
        Ok(transport) => transport,
        Err(text) => {
            log::tell(&format!("plugin {name}: {text}"));
            return ExitCode::FAILURE;
        }
    };
    let forgets = !launch.supervises && launch.hello.is_none() && !transport.has_other_wire();
    let mut site = Site {
        transport,
        folder: SocketFolder::new(launch.ipc_dir.unwrap_or_else(|| DEFAULT_FOLDER.into())),
        options,
        engine: Engine::new(),
        listening: Listening::new(plugin.limits.start_timeout),
        supervisor: None,
        cancels: CancelTable::new(plugin.functions.keys()),
        is_asked: launch.hello.is_some_and(|version| version >= Hello::VERSION),
        forgets,
    };
    // A host that restarts plugins itself must see their crashes.
    let is_supervised = plugin.supervised && !launch.supervises;
    let served = match is_supervised.then(supervised::inherited) {
        None => control::serve(plugin, site),
        Some(Some(inherited)) => control::work(plugin, site, inherited),
        Some(None) => {
            site.transport = site.transport.light();
            supervised::supervisor::supervise(plugin, site)
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::tell(&format!("plugin {name}: {}{}", text_of(&*error), limit(&*error)));
            ExitCode::FAILURE
        }
    }
}

/// The advice to raise a limit, for an error of the system that does not name
/// the resource.
fn limit(error: &(dyn std::error::Error + 'static)) -> &'static str {
    match error.downcast_ref().and_then(Errno::from_io_error) {
        Some(Errno::AGAIN) => {
            ": the plugin cannot create more threads: raise the limit of processes and threads (ulimit -u, pids.max), \
             or of memory (ulimit -v)"
        }
        Some(Errno::MFILE) => ": the plugin cannot open more files: raise the limit of open files (ulimit -n)",
        _ => "",
    }
}

/// The launch options from the host, or the message for a user who started the
/// plugin by hand.
fn launch_options(arguments: &[String]) -> Result<LaunchOptions, String> {
    match arguments {
        [argument] if !argument.starts_with('-') => LaunchOptions::parse(argument)
            .map_err(|error| format!("is an eKuiper portable plugin: {}", text_of(&error))),
        _ => Err("is an eKuiper portable plugin: an engine starts it, with one JSON argument such as \
            '{\"sendTimeout\":1000}'. To try it from a shell: ekuiper-plugin call FOLDER FUNCTION ARGUMENTS, \
            or ekuiper-plugin source FOLDER SOURCE, where FOLDER holds this executable and its manifest. To debug it: \
            ekuiper-plugin attach NAME, which says how to start it"
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_names_its_limit() {
        let error: crate::BoxError = std::io::Error::from(Errno::AGAIN).into();
        assert!(limit(&*error).contains("ulimit -u"));
        let error: crate::BoxError = std::io::Error::from(Errno::MFILE).into();
        assert!(limit(&*error).contains("ulimit -n"));
        let error: crate::BoxError = crate::Error::Panic("x".into()).into();
        assert_eq!(limit(&*error), "");
    }
}
