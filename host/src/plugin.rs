//! A plugin of a host: started when first needed, ended with the host.

use std::sync::{Arc, Mutex};

use crate::catalog::Package;
use crate::running::Running;
use crate::site::{Site, lock};
use crate::startup::Canceller;
use crate::{Error, Result};

/// A plugin of a host, whether it runs or not.
pub(crate) struct Plugin {
    pub(crate) package: Package,
    site: Arc<Site>,
    state: Mutex<PluginState>,
    canceller: Canceller,
}

enum PluginState {
    Idle,
    Running(Arc<Running>),
    /// The host is shut down.
    Closed,
}

impl Plugin {
    pub(crate) fn new(package: Package, site: Arc<Site>) -> Self {
        Self { package, site, state: Mutex::new(PluginState::Idle), canceller: Canceller::default() }
    }

    /// The running process, started if there is none.
    pub(crate) fn running(&self) -> Result<Arc<Running>> {
        // Held while it starts: others who need this plugin wait for the same
        // start, those who need another plugin do not.
        let mut state = lock(&self.state);
        match &*state {
            PluginState::Closed => return Err(Error::Stopped),
            PluginState::Running(running) if running.process.exit().is_none() => return Ok(running.clone()),
            PluginState::Running(_) | PluginState::Idle => {}
        }
        *state = PluginState::Idle;
        let running = Running::start(&self.package, &self.site, &self.canceller)?;
        *state = PluginState::Running(running.clone());
        Ok(running)
    }

    /// The process id, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &*lock(&self.state) {
            PluginState::Running(running) if running.process.exit().is_none() => Some(running.process.pid()),
            _ => None,
        }
    }

    /// Ends the process, or its start; it is not started again.
    pub(crate) fn shutdown(&self) {
        self.canceller.cancel();
        let former = std::mem::replace(&mut *lock(&self.state), PluginState::Closed);
        if let PluginState::Running(running) = former {
            running.shutdown();
        }
    }
}
