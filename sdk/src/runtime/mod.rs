//! The process that serves an engine: launch, control channel, orderly end.
//!
//! `control` starts and stops symbols; `source`, `sink` and `function` run
//! one each, on a thread of its own; `channel` drives a request channel;
//! `watchdog` notices signals and the parent's death.

mod channel;
mod control;
mod function;
mod sink;
mod source;
mod watchdog;

pub(crate) use function::answer as testing_answer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_core::address::{DEFAULT_FOLDER, SocketFolder};
use ekuiper_core::launch::LaunchOptions;
use ekuiper_core::transport::{Options, Transport};
use tracing::level_filters::LevelFilter;

use crate::{Error, Plugin, Result};

#[cfg(not(any(feature = "uds", feature = "nng")))]
compile_error!("enable a transport of ekuiper-sdk: feature \"uds\" (the default) or \"nng\"");

/// For how long a host may be gone before the plugin ends itself.
const HOST_ABSENCE: Duration = Duration::from_secs(10);

/// How this plugin talks.
#[derive(Clone)]
pub(crate) struct Site {
    transport: Arc<dyn Transport>,
    folder: SocketFolder,
    options: Options,
}

pub(crate) fn run(plugin: Plugin) -> ExitCode {
    let fail = |text: String, code: u8| {
        eprintln!("plugin {}: {text}", plugin.name);
        ExitCode::from(code)
    };
    if let Some(mistake) = &plugin.mistake {
        return fail(mistake.clone(), 1);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [argument] = arguments.as_slice() else {
        let text = "this is an eKuiper portable plugin: an engine starts it, with one JSON argument such as '{\"sendTimeout\":1000}'; to try it from a shell: ekuiper-plugin call FOLDER FUNCTION";
        return fail(text.into(), 2);
    };
    let launch = match LaunchOptions::parse(argument) {
        Ok(launch) => launch,
        Err(error) => return fail(error.to_string(), 2),
    };
    let level = launch.log_level.as_deref().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    // A subscriber of the author's own stays.
    let _ = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).try_init();
    let site = Site {
        transport: transport(launch.transport.as_deref()),
        folder: SocketFolder::new(launch.ipc_dir.unwrap_or_else(|| DEFAULT_FOLDER.into())),
        options: Options::default(),
    };
    let name = plugin.name.clone();
    match control::serve(plugin, site) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plugin {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The transport that the host asked for, or the first that is built in.
fn transport(wanted: Option<&str>) -> Arc<dyn Transport> {
    let mut built: Vec<Arc<dyn Transport>> = vec![
        #[cfg(feature = "uds")]
        Arc::new(ekuiper_transport_uds::UdsTransport::new()),
        #[cfg(feature = "nng")]
        Arc::new(ekuiper_transport_nng::NngTransport::new()),
    ];
    let position = wanted.and_then(|wanted| built.iter().position(|transport| transport.name() == wanted));
    let chosen = built.swap_remove(position.unwrap_or(0));
    if let (Some(wanted), None) = (wanted, position) {
        tracing::warn!("transport {wanted} is not built into this plugin, it uses {}", chosen.name());
    }
    chosen
}

/// Runs an author's code; a panic is an error.
pub(crate) fn guarded<T>(code: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::Panic(text.unwrap_or_else(|| "without a text".into())).into())
    })
}
