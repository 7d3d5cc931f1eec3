//! A host for one command: built from its options, ended in order, whatever
//! happens.

use std::path::Path;
use std::sync::Arc;

use ekuiper_host::{Host, HostBuilder};

use crate::args::Common;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::plugin_path;

/// A host, and whether the user has interrupted it.
pub(crate) struct Session {
    pub(crate) host: Arc<Host>,
    pub(crate) interrupt: Interrupt,
}

impl Session {
    /// A host with the plugins at `paths`.
    pub(crate) fn open(common: &Common, paths: &[&Path]) -> Result<Self> {
        // Refuse what is not built in before building anything.
        let _ = builder(common).build()?;
        let transport = common.transport.as_deref();
        let packages = paths.iter().map(|path| plugin_path::resolve(path, transport)).collect::<Result<Vec<_>>>()?;
        let host = packages.into_iter().fold(builder(common), |builder, package| builder.package(package));
        let host = Arc::new(host.build()?);
        let interrupt = Interrupt::default();
        let ended = host.clone();
        interrupt.watch(move || ended.shutdown()).map_err(Error::Signals)?;
        Ok(Self { host, interrupt })
    }

    /// What a failure comes to: none, when the user's interrupt caused it; what
    /// that has cost is said.
    pub(crate) fn outcome<T: Default>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(error @ Error::Host(ekuiper_host::Error::NotCollected { .. })) if self.interrupt.is_set() => {
                eprintln!("ekuiper-plugin: {error}");
                Ok(T::default())
            }
            Err(_) if self.interrupt.is_set() => Ok(T::default()),
            result => result,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.host.shutdown();
    }
}

fn builder(common: &Common) -> HostBuilder {
    let mut builder = Host::builder()
        .init_timeout(common.init_timeout)
        .send_timeout(common.send_timeout)
        .recv_timeout(common.recv_timeout)
        .drain_timeout(common.drain_timeout)
        .drain_stall(common.drain_stall)
        .format(common.codec.format())
        .log_level(common.log_level.name());
    if let Some(transport) = &common.transport {
        builder = builder.transport(transport);
    }
    if let Some(folder) = &common.ipc_dir {
        builder = builder.ipc_dir(folder);
    }
    if let Some(python) = &common.python_bin {
        builder = builder.python_bin(python);
    }
    builder
}
