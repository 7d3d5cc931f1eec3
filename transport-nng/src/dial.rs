//! Dialling with retries, on a thread of its own.
//!
//! libnng can redial by itself, but libnng 1.4 stops for ever when a listener
//! goes away at the very moment at which it is reached (nanomsg/nng#1518). Here
//! every attempt is a new libnng dialer, whose outcome is known.

use std::sync::Arc;
use std::time::Duration;

use ekuiper_core::address::Address;
use ekuiper_core::transport::Result;
use ekuiper_transport_ipc::wait::io_error;
use nng::{Dialer, Socket};

use crate::census::Census;
use crate::socket::url;

/// Pause after the first failed attempt; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Maximum pause between two attempts. Far below a second, so that every
/// dialler reconnects within one.
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// Whether the dialler makes another connection after the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    Once,
    Always,
}

/// Dials until `census` is closed, which happens just before the socket is.
pub(crate) fn start(socket: &Socket, address: &Address, census: &Arc<Census>, persistence: Persistence) -> Result<()> {
    let fail = |source| io_error("dial", address, source);
    let url = url(address.path()).map_err(fail)?;
    let (socket, census) = (socket.clone(), census.clone());
    let thread = std::thread::Builder::new().name("nng dial".into());
    thread.spawn(move || run(&socket, &url, &census, persistence)).map_err(fail)?;
    Ok(())
}

fn run(socket: &Socket, url: &str, census: &Census, persistence: Persistence) {
    let mut pause = FIRST_PAUSE;
    while census.unless_closed(|| ()).is_some() {
        let before = census.accepted();
        match Dialer::new(socket, url, false) {
            Ok(dialer) => {
                census.wait_for_departure();
                // The dialer is of no more use, and would eventually redial by
                // itself.
                if census.unless_closed(|| dialer.close()).is_none() {
                    return;
                }
            }
            Err(error) => tracing::trace!(url, %error, "not connected yet"),
        }
        if census.accepted() > before {
            if persistence == Persistence::Once {
                return;
            }
            pause = FIRST_PAUSE;
        }
        census.rest(pause);
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
