//! The arrival of an attached plugin: the wait for a process that somebody else
//! starts, and its handshake.

use std::sync::{Arc, mpsc};
use std::time::Instant;

use ekuiper_core::address::Address;
use ekuiper_core::exchange::HostEnd;
use ekuiper_core::message::SymbolKind;
use ekuiper_core::transport::{PeerProcess, TransportError};
use ekuiper_transport_ipc::platform::ProcessHandle;
use ekuiper_transport_ipc::wait::{deadline_after, io_error};
use rustix::io::Errno;
use rustix::process::Pid;

use super::startup::{Canceller, Report, Started, check_symbols};
use crate::catalog::Package;
use crate::channel::{Channel, Failure, LOOK_PAUSE};
use crate::error::{system_error, transport_error};
use crate::process::{Exit, Process};
use crate::site::Site;
use crate::{Error, Result, Subject};

/// Waits for a process of the plugin to complete its handshake. `on_exit` is
/// called, from another thread, when the process has ended, or the host has let
/// go of it; `on_listen`, once the process can connect to an address.
///
/// Until the handshake every process is admitted, from then on only the one that
/// has sent it. A process that connects and goes is not reported.
pub(super) fn attach(
    package: &Package,
    site: &Arc<Site>,
    canceller: &Canceller,
    on_listen: impl FnOnce(&Address),
    on_exit: impl FnOnce(&Exit) + Send + 'static,
) -> Result<Started> {
    let (name, patience) = (&package.name, site.options.init_timeout);
    let what = || Subject::of_plugin(name).not_sent();
    if !site.knows_processes() {
        let words = format!("plugin {name} cannot be attached over {}", site.transport_name());
        let source = TransportError::Misuse("the transport does not tell which process connects: use uds or nng");
        return Err(transport_error(what().in_words(words))(source));
    }
    let folder = site.common_folder();
    let address = folder.control(name).map_err(|source| Error::Message { what: what(), source: source.into() })?;
    let claim = site.claim(address, what())?;
    let scope = site.process_scope(name);
    let control = Channel::listen(&scope, &claim.address, HostEnd::of_former_host());
    let control = Arc::new(control.map_err(transport_error(what()))?);
    let (report, reports) = mpsc::channel();
    canceller.watch(&report)?;
    scope.kin().expect_anybody();
    on_listen(&claim.address);
    let deadline = deadline_after(patience);
    let (channel, address) = (control.clone(), claim.address.clone());
    let wait = move || {
        let _ = report.send(match await_process(&channel, &address, deadline) {
            Ok((pid, handle)) => Report::Came(pid, handle),
            Err(failure) => Report::Waited(0, Err(failure)),
        });
    };
    let spawned = std::thread::Builder::new().name(format!("{name}-handshake")).spawn(wait);
    let came = spawned.map_err(system_error(Subject::of_plugin(name), "a thread")).and_then(|_| {
        let plugin = || name.to_owned();
        match reports.recv() {
            Ok(Report::Came(pid, handle)) => Ok((pid, handle)),
            Ok(Report::Waited(_, Err(Failure::Garbage(said)))) => {
                Err(Error::Garbage { plugin: plugin(), said: String::from_utf8_lossy(&said).into_owned() })
            }
            Ok(Report::Waited(_, Err(Failure::NotReady(_)))) => {
                Err(Error::NoHandshake { plugin: plugin(), after: patience, note: String::new() })
            }
            Ok(Report::Waited(_, Err(Failure::Transport(source)))) => Err(transport_error(what())(source)),
            _ => Err(Error::Stopped),
        }
    });
    canceller.end_start();
    let own = scope.clone();
    let on_exit = move |exit: &Exit| {
        own.process_ended();
        on_exit(exit);
        own.kin().end();
    };
    let attached = came.and_then(|(pid, handle)| {
        let hello = control.hello();
        if let Some(hello) = hello.as_ref().filter(|_| lists_symbols(package)) {
            check_symbols(package, hello)?;
        }
        scope.kin().settle_on(pid);
        let process = Process::attach(name, pid, handle, on_exit)?;
        Ok(Started { process, control: control.clone(), folder, claim, hello, scope })
    });
    attached.inspect_err(|_| control.close())
}

/// Returns whether the plugin has a manifest.
fn lists_symbols(package: &Package) -> bool {
    SymbolKind::ALL.into_iter().any(|kind| !package.manifest.symbols(kind).is_empty())
}

/// Waits for the handshake of a process that is still alive after it; returns
/// the process's id, and a handle of it.
fn await_process(control: &Channel, address: &Address, deadline: Instant) -> Result<(Pid, ProcessHandle), Failure> {
    loop {
        control.wait_ready(deadline, true)?;
        if let Some(PeerProcess::Pid(pid)) = control.peer_process()
            && let Some(pid) = Pid::from_raw(pid.cast_signed())
        {
            match ProcessHandle::open(pid) {
                Ok(handle) => return Ok((pid, handle)),
                Err(Errno::SRCH) => {}
                Err(error) => {
                    let source = io_error("watch the process that has connected to", address, error.into());
                    return Err(Failure::Transport(source));
                }
            }
        }
        // It has ended, and its disconnect is about to arrive.
        std::thread::sleep(LOOK_PAUSE);
    }
}
