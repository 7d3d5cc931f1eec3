//! The process that serves an engine: launch, control channel, orderly shutdown.
//!
//! `control` reads the commands, `command` names what one addresses, and
//! `symbols` starts and stops symbols; `live` is a symbol's thread as the control
//! thread sees it; `source`, `sink` and `function` run on that thread;
//! `functions` connects functions that a stock engine does not start again;
//! `channel` drives a request channel; `site` is what all of them communicate
//! by: `listening` has the sockets of sinks, and `engine` the process whose rows
//! they accept; `watchdog` notices signals and the parent's death; `no_engine`
//! explains why no engine answers; `bell` wakes the control thread; `log` writes
//! to stderr; `supervised` splits the plugin into two processes.

mod bell;
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

pub(crate) use function::answer;
pub(crate) use sink::deliver;
pub(crate) use source::run as run_source;

use std::process::ExitCode;
use std::sync::Arc;

use ekuiper_core::address::{DEFAULT_FOLDER, SocketFolder};
use ekuiper_core::launch::LaunchOptions;
use ekuiper_core::message::Hello;
use ekuiper_core::transport::{Options, Transport};
use rustix::io::Errno;

use crate::Result;
use crate::definition::Definition;
use crate::error::text_of;
use engine::Engine;
use listening::Listening;
use site::Site;

#[cfg(not(any(feature = "uds", feature = "nng", feature = "zeromq")))]
compile_error!("ekuiper-sdk needs a transport: enable its feature \"uds\" (the default), \"nng\" or \"zeromq\"");

/// The transport with a different wire protocol; `uds` and `nng` share one.
const OTHER_WIRE: &str = "zeromq";

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
    options.max_message = plugin.limits.max_message;
    options.spin = plugin.limits.spin;
    let transport = match transport(launch.transport.as_deref()) {
        Ok(transport) => transport,
        Err(text) => {
            log::tell(&format!("plugin {name}: {text}"));
            return ExitCode::FAILURE;
        }
    };
    let forgets = !launch.supervises && launch.hello.is_none() && transport.name() != OTHER_WIRE;
    let mut site = Site {
        transport,
        folder: SocketFolder::new(launch.ipc_dir.unwrap_or_else(|| DEFAULT_FOLDER.into())),
        options,
        engine: Engine::new(),
        listening: Listening::new(plugin.limits.start_timeout),
        supervisor: None,
        is_asked: launch.hello.is_some_and(|version| version >= Hello::VERSION),
        forgets,
    };
    // A host that restarts plugins itself must see their crashes.
    let is_supervised = plugin.supervised && !launch.supervises;
    let served = match is_supervised.then(supervised::inherited) {
        None => control::serve(plugin, site),
        Some(Some(inherited)) => control::work(plugin, site, inherited),
        Some(None) => {
            site.transport = light(site.transport);
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
            or ekuiper-plugin source FOLDER SOURCE, where FOLDER holds this executable and its manifest"
            .into()),
    }
}

/// The transport that the host asked for, or else the first built-in one; an
/// error if their wire protocols differ.
fn transport(wanted: Option<&str>) -> Result<Arc<dyn Transport>, String> {
    let mut built: Vec<Arc<dyn Transport>> = vec![
        #[cfg(feature = "uds")]
        Arc::new(ekuiper_transport_uds::UdsTransport::new()),
        #[cfg(feature = "nng")]
        Arc::new(ekuiper_transport_nng::NngTransport::new()),
        #[cfg(feature = "zeromq")]
        Arc::new(ekuiper_transport_zeromq::ZeromqTransport::new()),
    ];
    let position = wanted.and_then(|wanted| built.iter().position(|transport| transport.name() == wanted));
    let chosen = built.swap_remove(position.unwrap_or(0));
    if position.is_none() {
        // A host that names no transport speaks SP, as eKuiper does.
        let spoken = wanted.unwrap_or("uds");
        if (spoken == OTHER_WIRE) != (chosen.name() == OTHER_WIRE) {
            return Err(format!(
                "transport {spoken} is not built into this plugin, and {} has a different wire protocol: build the plugin \
                 with its feature \"{spoken}\", or start the host with another transport",
                chosen.name()
            ));
        }
        if wanted.is_some() {
            tracing::warn!("transport {spoken} is not built into this plugin, which uses {} instead", chosen.name());
        }
    }
    Ok(chosen)
}

/// Replaces `nng` by the smaller `uds`, with the same wire protocol, for a
/// supervisor.
fn light(transport: Arc<dyn Transport>) -> Arc<dyn Transport> {
    #[cfg(feature = "uds")]
    if transport.name() == "nng" {
        return Arc::new(ekuiper_transport_uds::UdsTransport::new());
    }
    transport
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

    fn name(wanted: Option<&str>) -> Result<&'static str, String> {
        transport(wanted).map(|transport| transport.name())
    }

    #[test]
    #[cfg(any(feature = "uds", feature = "nng"))]
    fn a_transport_that_is_not_built_in_is_replaced() {
        let first = name(None).unwrap();
        assert_eq!(name(Some("pigeon")).unwrap(), first);
        assert_eq!(name(Some(first)).unwrap(), first);
    }

    #[test]
    fn a_transport_of_another_wire_is_not() {
        for (wanted, is_built) in
            [("zeromq", cfg!(feature = "zeromq")), ("uds", cfg!(any(feature = "uds", feature = "nng")))]
        {
            match name(Some(wanted)) {
                Ok(chosen) => assert!(is_built, "{chosen} was chosen"),
                Err(text) => assert!(!is_built && text.contains(&format!("its feature \"{wanted}\"")), "{text}"),
            }
        }
    }
}
