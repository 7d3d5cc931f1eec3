//! The control channel, from which the commands come: the engine's, or in a
//! supervised plugin's worker the supervisor's.

use std::sync::{Arc, Mutex};

use ekuiper_core::message::{ANSWER_OK, Cancel, Feature};
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{Request, TransportError};

use super::bell::Bell;
use super::built_in::BuiltIn;
use super::channel::Patience;
use super::engine::Engine;
use super::site::Site;
use super::supervised::{Inherited, Link, Marks, SupervisorLink};
use super::symbols::Symbols;
use super::{channel, command, functions, log, no_engine, watchdog};
use crate::cancel::CancelTable;
use crate::definition::Definition;
use crate::error::text_of;
use crate::{Error, Result};

/// Serves the control channel until the host, a signal or the parent's death
/// ends the plugin.
pub(super) fn serve(plugin: Definition, site: Site) -> Result<()> {
    let address = site.folder.control(&plugin.name)?;
    let fail = |source| Error::Transport { what: format!("control channel {address} failed"), source };
    let request: Arc<dyn Request> =
        Arc::from(site.transport.request(&address, &site.engine.finding(&site.options)).map_err(fail)?);
    let bell = Arc::new(Bell::default());
    let (closed, listening) = (request.clone(), site.listening.clone());
    let stop = move || {
        listening.stop();
        closed.close();
    };
    watchdog::watch(bell.clone(), stop)?;
    let absence = plugin.limits.host_absence;
    let greeting = site.greeting(|| {
        let hello = plugin.hello().with_everything();
        let further = [(cfg!(feature = "arrow"), Feature::Columns), (BuiltIn::shares_memory(), Feature::SharedMemory)];
        further.into_iter().filter(|(has, _)| *has).fold(hello, |hello, (_, feature)| hello.with(feature))
    });
    let name = plugin.name.clone();
    let cancels = site.cancels.clone();
    let symbols = begin(plugin, site, bell)?;
    let on_silence = || log::tell(&no_engine::explain(&name, &address));
    let patience = Patience { absence, on_silence: &on_silence };
    let served = channel::serve(&*request, Some(patience), &greeting, &mut Commands { symbols: &symbols, cancels });
    lock(&symbols).stop_all();
    match served {
        Err(TransportError::Timeout) => {
            tracing::warn!("no host has been connected to {address} for {absence:?}: the plugin shuts down");
            Ok(())
        }
        served => Ok(served.map_err(fail)?),
    }
}

/// Serves the supervisor until the supervisor, its death or a signal ends the
/// worker.
pub(super) fn work(plugin: Definition, mut site: Site, inherited: Inherited) -> Result<()> {
    name_process();
    let marks = Arc::new(Marks::new(&inherited.memory, plugin.functions.len())?);
    let link = Arc::new(Link::new(inherited));
    site.engine = Engine::shared(marks.engine());
    site.supervisor = Some(SupervisorLink { link: link.clone(), marks });
    let bell = Arc::new(Bell::default());
    let (closed, listening) = (link.clone(), site.listening.clone());
    let stop = move || {
        listening.stop();
        closed.close();
    };
    watchdog::watch(bell.clone(), stop)?;
    let symbols = begin(plugin, site, bell)?;
    let (mut command, mut reply) = (Vec::new(), Vec::new());
    link.ready();
    while let Some(again) = link.receive(&mut command) {
        reply.clear();
        let launched = lock(&symbols).answer_supervisor(&command, again, &mut reply);
        link.answer(launched, &reply);
    }
    lock(&symbols).stop_all();
    Ok(())
}

/// Creates the table of symbols, and starts to connect functions that the
/// engine may not start again.
fn begin(plugin: Definition, site: Site, bell: Arc<Bell>) -> Result<Arc<Mutex<Symbols>>> {
    let names: Vec<_> = plugin.functions.keys().cloned().collect();
    let symbols = Arc::new(Mutex::new(Symbols::new(plugin, site.clone(), bell)));
    if site.forgets {
        functions::connect(&symbols, &site, &names)?;
    }
    Ok(symbols)
}

/// Sets this process's name to the program's: it was started as
/// `/proc/self/exe`.
fn name_process() {
    let name = std::env::args_os().next().map(std::path::PathBuf::from);
    if let Some(name) = name.as_ref().and_then(|name| name.file_name()) {
        ekuiper_transport_ipc::platform::name_process(name);
    }
}

/// The handler of the control channel's commands.
struct Commands<'a> {
    symbols: &'a Mutex<Symbols>,
    cancels: CancelTable,
}

impl channel::Answer for Commands<'_> {
    fn greeted(&mut self) {
        self.cancels.forget();
    }

    fn answer(&mut self, command: &mut Vec<u8>, reply: &mut Vec<u8>) {
        match Cancel::decode(command) {
            // Whatever another thread does with the symbols meanwhile.
            Some(Ok(cancels)) => {
                self.cancels.cancel(cancels);
                reply.extend_from_slice(ANSWER_OK);
            }
            Some(Err(error)) => command::refuse(&text_of(&error), reply),
            None => lock(self.symbols).answer(command, reply),
        }
    }

    fn refuse(&mut self, text: &str, reply: &mut Vec<u8>) {
        command::refuse(text, reply);
    }
}
