//! Commands on the control channel of a process, and what follows when one is
//! not answered.

use std::task::Waker;
use std::time::Duration;

use ekuiper_core::exchange::NotReady;
use ekuiper_core::message::{ANSWER_OK, Command, CommandKind, Control, Feature, SymbolKind};
use ekuiper_transport_ipc::wait::deadline_after;

use super::Running;
use crate::channel::Failure;
use crate::sync::lock;
use crate::{Error, Result, Subject};

impl Running {
    pub(super) fn command(&self, kind: CommandKind, control: &Control, patience: Duration) -> Result<()> {
        let words = || format!("{kind} {} {}", control.plugin_type, control.symbol_name);
        let what = || Subject::from(words()).about(&self.name, Some(&control.symbol_name));
        let is_sink = control.plugin_type == SymbolKind::Sink;
        let reports = is_sink && !control.requires_ack() && self.has(Feature::Collected);
        let ack_counts = is_sink && self.counts_acks(control);
        let control = control.clone().with_format(self.format(control.plugin_type)).with_reports(reports);
        let control = control.with_ack_counts(ack_counts);
        let columns = control.columns && self.has(Feature::Columns);
        let control = control.with_columns(columns).with_transport(self.scope.transport_of_symbols());
        let encoded = Command { kind, control: control.clone() }
            .encode()
            .map_err(|source| Error::Message { what: what().not_sent(), source: source.into() })?;
        self.replace_if_hung()?;
        let until = deadline_after(patience);
        let answer = self.control.exchange(&encoded, until, until, <[u8]>::to_vec);
        if let Err(Failure::Timeout) = answer
            && !self.process.is_attached()
        {
            *lock(&self.hung) = Some(words());
            if lock(&self.live).is_empty() && lock(&self.functions).is_empty() {
                // Other plugins are not affected.
                self.replace(&words());
            }
        }
        // A plugin that hangs may not even answer the command before this one,
        // which cancels calls: that one is given up.
        if let Err(Failure::NotReady(NotReady::Busy)) = answer
            && !self.process.is_attached()
            && self.control.try_expire(None, Waker::noop())
        {
            lock(&self.hung).get_or_insert_with(words);
        }
        let answer = answer.map_err(|failure| {
            let may_run = match kind {
                CommandKind::Start => failure.may_be_carried_out(),
                CommandKind::Stop => !matches!(failure, Failure::ProcessEnded),
            };
            if may_run && control.plugin_type != SymbolKind::Function {
                self.add_stray(&control);
            }
            match self.explain(failure, what(), patience) {
                // The process is gone, and with it whatever it may have
                // started.
                Error::OutcomeUnknown { plugin, exit: Some(exit), .. } if kind == CommandKind::Start => {
                    Error::Exited { plugin, exit }
                }
                error => error,
            }
        })?;
        if answer == ANSWER_OK {
            return Ok(());
        }
        Err(Error::Refused {
            plugin: self.name.clone(),
            command: kind.to_string(),
            kind: control.plugin_type,
            symbol: control.symbol_name.clone(),
            text: ekuiper_core::printable::lines(String::from_utf8_lossy(&answer).trim_end()).into_owned(),
        })
    }

    /// Replaces the process of a plugin that hangs in a command, since it
    /// cannot execute any other (fault 18).
    fn replace_if_hung(&self) -> Result<()> {
        let mut hung = lock(&self.hung);
        match self.control.is_ready() {
            Some(true) => *hung = None,
            Some(false) => {}
            // The plugin is executing a command.
            None => return Ok(()),
        }
        let Some(what) = hung.clone() else { return Ok(()) };
        drop(hung);
        self.replace(&what);
        Err(Error::Replaced { plugin: self.name.clone(), hung: what })
    }

    fn replace(&self, hung: &str) {
        tracing::warn!(plugin = self.name, hung, "the plugin hangs: replacing its process");
        self.process.terminate(self.site.options.grace);
    }
}
