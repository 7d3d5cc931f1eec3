//! `serve`: plugins that are installed, updated and removed by requests.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_manager::{Manager, rest};

use crate::args::{Common, LogLevel, Serve};
use crate::error::{Error, Result};
use crate::http_server::{Bounds, Security};
use crate::interrupt::Interrupt;
use crate::{console, http_server, session, token};

/// Interval of the look whether a signal has come.
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn run(common: &Common, serve: &Serve) -> Result<ExitCode> {
    let is_local = serve.listen.ip().to_canonical().is_loopback();
    if !is_local && serve.token_file.is_none() {
        return Err(Error::ServedToAll { address: serve.listen });
    }
    if let Some(program) = &common.python_bin {
        // The plugins that need it may come later.
        ekuiper_host::check_python(program).map_err(|problem| Error::Python { problem })?;
    }
    let security = security(serve)?;
    let has_tls = !matches!(security, Security::Plain);
    let interrupt = Interrupt::watch(|| {}).map_err(Error::Signals)?;
    let failed = |source| Error::Listen { address: serve.listen, option: "--listen", source };
    let listener = TcpListener::bind(serve.listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    listener.set_nonblocking(true).map_err(Error::Serve)?;
    let token = serve.token_file.as_deref().map(token::of_serve).transpose()?;
    let (token, made) = token.map_or((None, None), |(token, made)| (Some(token), made));
    let manager = Manager::builder(&serve.plugins)
        // What plugins log is kept for those who ask for it, whatever is shown here.
        .host(session::builder(common)?.log_level(common.log_level.max(LogLevel::Info).name()))
        .allow_private_addresses(serve.allow_private_addresses)
        .fetch_size(serve.package_size)
        .open()?;
    for (name, problem) in manager.problems() {
        console::tell(format_args!("plugin {name} cannot be used: {}", ekuiper_core::Chain(problem)));
    }
    let manager = Arc::new(manager);
    start_all(&manager)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(Error::Serve)?;
    let scheme = if has_tls { "https" } else { "http" };
    console::tell(format_args!(
        "serving {scheme}://{address}/plugins/portables, with the plugins in {}; the page is at {scheme}://{address}/",
        serve.plugins.display()
    ));
    token::tell(made);
    if !is_local && !has_tls {
        console::tell(
            "requests, and the token with them, can be read on their way: https needs --tls-cert and --tls-key",
        );
    }
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Serve)?;
        let router = rest::router(manager.clone());
        // Another machine asks for this one by any name.
        let router = if is_local { rest::of_this_machine(router) } else { router };
        let router = match token {
            Some(token) => rest::with_token(router, token),
            None => router,
        };
        let bounds = Bounds::default();
        let connections = serve.connections.unwrap_or(bounds.connections);
        let bounds = Bounds { head: serve.head_timeout, connections, ..bounds };
        let end = ending(interrupt.clone(), manager.clone());
        let finish = async |unanswered| {
            if unanswered > 0 {
                console::tell(format_args!("requests were still under way after {:?}: they are refused", bounds.end));
            }
            let _ = tokio::task::spawn_blocking(move || manager.shutdown()).await;
        };
        http_server::serve(listener, security, router, bounds, end, finish).await;
        Ok::<_, Error>(())
    })?;
    runtime.shutdown_background();
    Ok(interrupt.exit_code())
}

/// Returns what connections speak below HTTP.
#[cfg_attr(not(feature = "https"), allow(unused_variables))]
fn security(serve: &Serve) -> Result<Security> {
    #[cfg(feature = "https")]
    if let (Some(certificate), Some(key)) = (&serve.tls_cert, &serve.tls_key) {
        let config = ekuiper_manager::tls::server(certificate, key).map_err(|problem| Error::Tls { problem })?;
        return Ok(config.into());
    }
    Ok(Security::Plain)
}

/// Starts the plugins, and tells of those that do not start, while requests are
/// answered already.
fn start_all(manager: &Arc<Manager>) -> Result<()> {
    let manager = manager.clone();
    let start = move || {
        for package in manager.plugins().unwrap_or_default() {
            match manager.host().start(&package.name) {
                Ok(()) | Err(ekuiper_host::Error::Stopped) => {}
                Err(error) => console::tell(ekuiper_core::Chain(&error)),
            }
        }
    };
    std::thread::Builder::new().name("start".into()).spawn(start).map_err(Error::Thread)?;
    Ok(())
}

/// Waits until a signal has come, and ends what has no end, and installations.
async fn ending(interrupt: Interrupt, manager: Arc<Manager>) {
    while !interrupt.is_set() {
        tokio::time::sleep(LOOK).await;
    }
    manager.end();
}
