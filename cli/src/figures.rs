//! `--metrics`: the figures of plugins for Prometheus, while a command runs them.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ekuiper_host::Host;
use ekuiper_manager::rest;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::http_server::{Bounds, Security};
use crate::{console, http_server};

/// Maximum time for requests that are being answered, at the end.
const END: Duration = Duration::from_millis(500);

/// An address at which figures are to be served.
pub(crate) struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

/// A server of `GET /metrics`, which ends when this is dropped.
pub(crate) struct Figures {
    thread: Option<JoinHandle<()>>,
    end: Option<oneshot::Sender<()>>,
}

impl Listening {
    /// Listens at an address, which must be one of this machine alone.
    pub(crate) fn at(address: SocketAddr) -> Result<Self> {
        if !address.ip().to_canonical().is_loopback() {
            return Err(Error::MeasuredByAll { address });
        }
        let failed = |source| Error::Listen { address, option: "--metrics", source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        listener.set_nonblocking(true).map_err(Error::Serve)?;
        Ok(Self { listener, address })
    }

    /// Serves the figures of a host, and tells where.
    pub(crate) fn serve(self, host: Arc<Host>) -> Result<Figures> {
        let Self { listener, address } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(Error::Serve)?;
        let (end, ended) = oneshot::channel::<()>();
        let serve = move || {
            runtime.block_on(async {
                let listener = match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(problem) => return console::tell(format_args!("the figures are not served: {problem}")),
                };
                let router = rest::of_this_machine(rest::figures(host));
                let bounds = Bounds { end: END, ..Bounds::default() };
                // An error is the end, too.
                let ended = async { _ = ended.await };
                http_server::serve(listener, Security::Plain, router, bounds, ended, async |_| {}).await;
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("metrics".into()).spawn(serve).map_err(Error::Thread)?;
        console::tell(format_args!("serving http://{address}/metrics"));
        Ok(Figures { thread: Some(thread), end: Some(end) })
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
