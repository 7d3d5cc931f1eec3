//! The supervisor, which holds the control channel and the list of live symbols,
//! and restarts a worker that has died. No user code runs here.

use ekuiper_core::instant::later;
use ekuiper_transport_ipc::wait::deadline_after;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::address::Address;
use ekuiper_core::message::Meta;
use ekuiper_core::restart::{Crashes, RestartPolicy, Verdict};
use ekuiper_core::transport::{Request, TransportError};
use ekuiper_transport_ipc::platform::Flag;
use ekuiper_transport_ipc::random::jitter;
use ekuiper_transport_ipc::socket_file;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::account::settle;
use super::link::WorkerReport;
use super::marks::{Marks, UNKNOWN_MESSAGE};
use super::orphans::Orphans;
use super::roster::Roster;
use super::worker::Worker;
use super::{marks, page};
use crate::definition::Definition;
use crate::error::text_of;
use crate::runtime::channel::Patience;
use crate::runtime::engine::Engine;
use crate::runtime::sink::refuse;
use crate::runtime::site::Site;
use crate::runtime::watchdog::{Ends, GRACE};
use crate::runtime::{channel, command, log, no_engine};
use crate::{Error, Result};

/// The maximum time until a worker is ready: as long as an engine waits for a
/// plugin's handshake.
const READY: Duration = Duration::from_secs(60);

/// The time allowed for a command beyond the symbol's start and stop timeouts.
const SLACK: Duration = Duration::from_secs(5);

/// The maximum wait for a worker to shut down: a little longer than its own
/// limit.
const LEAVE: Duration = GRACE.saturating_add(Duration::from_millis(400));

/// The time for which the connections of a dead worker's sinks are watched for
/// further messages: far longer than an engine takes from an ack to its next
/// message, and less than it takes to reconnect.
const SETTLE: Duration = Duration::from_millis(20);

/// The deadline for sending the last answer to the engine.
const FAREWELL: Duration = Duration::from_millis(500);

/// Supervises the plugin until the host, a signal, the parent's death or a crash
/// loop ends it.
pub(in crate::runtime) fn supervise(plugin: Definition, mut site: Site) -> Result<()> {
    let address = site.folder.control(&plugin.name)?;
    let fail = |source| Error::Transport { what: format!("control channel {address} failed"), source };
    let memory = page::memory(marks::words(plugin.functions.len()))?;
    let marks = Marks::new(&memory, plugin.functions.len())?;
    site.engine = Engine::shared(marks.engine());
    let options = site.engine.finding(&site.options);
    let request = Arc::from(site.transport.request(&address, &options).map_err(fail)?);
    let ends = Ends::new()?;
    let (events, inbox) = mpsc::channel();
    let (answers, answered) = mpsc::channel();
    let wake = Arc::new(Flag::new()?);
    let courier = Courier { events, wake: wake.clone(), answered };
    let policy = RestartPolicy::default();
    // No extensions are offered: the marks depend on the stock form of calls,
    // and the accounts on one acknowledgement per message.
    let greeting = site.greeting(|| plugin.hello());
    let limits = &plugin.limits;
    let mut supervisor = Supervisor {
        name: plugin.name.clone(),
        marks,
        memory,
        address,
        site,
        request,
        absence: limits.host_absence,
        greeting,
        patience: limits.start_timeout.saturating_add(limits.stop_timeout).saturating_add(SLACK),
        policy: policy.clone(),
        crashes: Crashes::new(policy),
        roster: Roster::default(),
        worker: None,
        orphans: Orphans::adopted(plugin.worker.is_some())?,
        command: plugin.worker.clone(),
        start_at: Some(Instant::now()),
        courier: Some(courier),
        inbox,
        wake,
        answers,
        asks: Asks::Nothing,
    };
    // Destructors of the author's types must run in the worker only.
    std::mem::forget(plugin);
    let ended = supervisor.serve(&ends);
    supervisor.finish(ended.as_ref().err().map(|error| text_of(&**error)));
    ended
}

struct Supervisor {
    name: String,
    memory: OwnedFd,
    marks: Marks,
    address: Address,
    site: Site,
    request: Arc<dyn Request>,
    absence: Duration,
    /// The first message of each connection.
    greeting: Vec<u8>,
    /// The maximum time for which a worker may execute a command.
    patience: Duration,
    policy: RestartPolicy,
    crashes: Crashes,
    roster: Roster,
    worker: Option<Worker>,
    orphans: Option<Orphans>,
    /// The worker's command line; `None` for this process's own.
    command: Option<Vec<String>>,
    /// The time at which to start the next worker.
    start_at: Option<Instant>,
    /// Present until the first worker is ready; from then on it serves the
    /// control channel on its own thread.
    courier: Option<Courier>,
    inbox: mpsc::Receiver<Event>,
    wake: Arc<Flag>,
    answers: mpsc::Sender<Vec<u8>>,
    asks: Asks,
}

/// Whether the engine waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Nothing,
    /// The engine waits for the answer to its command.
    Command,
    /// The answer was passed to the control channel and not sent yet.
    Answered,
}

/// An event of the control channel.
enum Event {
    Command(Vec<u8>),
    /// The answer was sent.
    Sent,
    Ended(Result<(), TransportError>),
}

/// The events that ended a wait.
#[derive(Default)]
struct Wakeup {
    end: bool,
    wake: bool,
    /// A child that may be an orphan has ended.
    child: bool,
    worker: bool,
    /// The worker's process has ended.
    death: bool,
}

impl Supervisor {
    fn serve(&mut self, ends: &Ends) -> Result<()> {
        loop {
            self.act(Instant::now())?;
            let heard = self.wait(ends)?;
            if heard.end {
                return Ok(());
            }
            if heard.wake {
                self.wake.lower();
                while let Ok(event) = self.inbox.try_recv() {
                    match event {
                        Event::Command(command) => self.command(command),
                        Event::Sent => self.asks = Asks::Nothing,
                        Event::Ended(ended) => return self.explain(ended),
                    }
                }
            }
            if let (true, Some(orphans)) = (heard.child, &self.orphans) {
                orphans.reap(self.worker.as_mut());
            }
            if heard.worker || heard.death {
                self.listen(heard.death)?;
            }
            let late = |worker: &Worker| worker.deadline.is_some_and(|deadline| deadline <= Instant::now());
            if let Some(worker) = self.worker.as_mut().filter(|worker| late(worker)) {
                tracing::error!(pid = worker.pid(), "the worker did not answer before its deadline and is killed");
                worker.deadline = None;
                worker.kill();
            }
        }
    }

    /// Starts the worker if one is due, and sends it the next command.
    fn act(&mut self, now: Instant) -> Result<()> {
        if self.worker.is_none() && self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            match Worker::start(self.command.as_deref(), &self.memory, READY) {
                Ok(worker) => self.worker = Some(worker),
                Err(error) if self.courier.is_some() => {
                    return Err(format!("cannot start its worker: {}", text_of(&*error)).into());
                }
                Err(error) => {
                    let error = text_of(&*error);
                    tracing::error!(error, "cannot start a worker");
                    self.crashed(&error, now)?;
                }
            }
        }
        if let Some(worker) = self.worker.as_mut().filter(|worker| worker.ready)
            && let Some(order) = self.roster.next(now)
        {
            worker.deadline = Some(later(now, self.patience));
            if let Err(error) = worker.tell(&order.command, order.again) {
                tracing::error!(error = %Chain(&error), "cannot send a command to the worker, which is killed");
                self.roster.not_told();
                worker.leave(LEAVE);
                worker.kill();
            }
        }
        Ok(())
    }

    /// Waits for an event, or until the next deadline.
    fn wait(&self, ends: &Ends) -> Result<Wakeup> {
        let worker = self.worker.as_ref();
        let again = worker.filter(|worker| worker.ready).and_then(|_| self.roster.next_at());
        let deadline = worker.and_then(|worker| worker.deadline);
        let until = [self.start_at, again, deadline].into_iter().flatten().min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        fds.extend(ends.fds());
        let ends = fds.len();
        fds.extend(self.orphans.as_ref().map(Orphans::fd));
        let own = fds.len();
        fds.extend(worker.into_iter().flat_map(Worker::fds));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) => {
                let is = |fd: &PollFd<'_>| !fd.revents().is_empty();
                let (end, child) = (fds[1..ends].iter().any(is), fds[ends..own].iter().any(is));
                let of_worker = &fds[own..];
                let (death, worker) = (of_worker.first().is_some_and(is), of_worker.get(1).is_some_and(is));
                Ok(Wakeup { end, wake: is(&fds[0]), child, worker, death })
            }
            Err(rustix::io::Errno::INTR) => Ok(Wakeup::default()),
            Err(error) => Err(format!("the supervisor cannot poll its descriptors: {error}").into()),
        }
    }

    fn command(&mut self, command: Vec<u8>) {
        self.asks = Asks::Command;
        let sinks: Vec<_> = self.roster.sinks().cloned().collect();
        if let Some(answer) = self.roster.command(command) {
            // Remove the socket that a dead worker left of a sink that was stopped.
            let gone = sinks.iter().filter(|meta| !self.roster.sinks().any(|live| live == *meta));
            gone.for_each(|meta| self.sweep(meta));
            self.answer(answer);
        }
    }

    fn answer(&mut self, answer: Vec<u8>) {
        self.asks = Asks::Answered;
        // Fails only if the control channel has ended.
        let _ = self.answers.send(answer);
    }

    /// Handles the worker's messages and its end.
    fn listen(&mut self, death: bool) -> Result<()> {
        let now = Instant::now();
        let mut said = Vec::new();
        let Some(worker) = &mut self.worker else { return Ok(()) };
        let leaves = worker.hear(&mut said);
        worker.ready |= said.contains(&WorkerReport::Ready);
        if !said.is_empty() {
            worker.deadline = None;
        }
        if leaves {
            // The worker is shutting down for another reason, or crashing.
            worker.leave(LEAVE);
        }
        let pid = worker.pid();
        for said in said {
            match said {
                WorkerReport::Ready => {
                    self.crashes.started(now);
                    tracing::info!(pid, live = self.roster.len(), "the worker is ready");
                    if let Some(courier) = self.courier.take() {
                        courier.start(
                            self.request.clone(),
                            self.absence,
                            self.greeting.clone(),
                            self.report_silence(),
                        )?;
                    }
                }
                WorkerReport::Answer(launch, answer) => {
                    let answer = self.roster.answered(launch, answer, now);
                    answer.into_iter().for_each(|answer| self.answer(answer));
                }
                WorkerReport::Over(launch) => self.roster.over(launch),
                // Handled by `Worker::hear`.
                WorkerReport::Hold(..) | WorkerReport::LetGo(_) => {}
            }
        }
        if death { self.bury(now) } else { Ok(()) }
    }

    fn bury(&mut self, now: Instant) -> Result<()> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        let pid = worker.pid();
        let (status, held) = worker.reap();
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if self.courier.is_some() {
            return Err(format!("its worker ended before it was ready ({how})").into());
        }
        tracing::error!(pid, "the worker has ended ({how})");
        let (answer, sink) = self.roster.worker_died(&how, now);
        if let Some(sink) = sink {
            self.sweep(&sink);
        }
        answer.into_iter().for_each(|answer| self.answer(answer));
        // Before the next worker starts: an engine that has its answer to a call
        // sends the result to the sink, and must not find the dead worker's
        // connection.
        settle(held, &self.marks, SETTLE);
        self.crashed(&how, now)
    }

    /// Schedules the start of the next worker.
    ///
    /// # Errors
    /// The worker is in a crash loop: the supervisor ends with this error.
    fn crashed(&mut self, how: &str, now: Instant) -> Result<()> {
        match self.crashes.crashed(now, jitter()) {
            Verdict::After(pause) => {
                self.start_at = Some(later(now, pause));
                Ok(())
            }
            Verdict::Broken(_) => {
                let RestartPolicy { break_after, break_window, .. } = self.policy;
                Err(format!(
                    "its worker has crashed {break_after} times within {break_window:?}, the last time by {how}: it is \
                     not started again; its output before the crash is above"
                )
                .into())
            }
        }
    }

    /// The callback that reports that no engine responds.
    fn report_silence(&self) -> impl Fn() + Send + use<> {
        let (name, address) = (self.name.clone(), self.address.clone());
        move || log::tell(&no_engine::explain(&name, &address))
    }

    /// Removes the socket of a sink that a dead worker has left.
    fn sweep(&self, meta: &Meta) {
        let Ok(address) = self.site.folder.data(meta) else { return };
        let _ = socket_file::remove_stale(&address);
    }

    fn explain(&self, ended: Result<(), TransportError>) -> Result<()> {
        let (address, absence) = (&self.address, self.absence);
        match ended {
            Err(TransportError::Timeout) => {
                tracing::warn!("no host has been connected to {address} for {absence:?}: the plugin shuts down");
                Ok(())
            }
            ended => Ok(ended
                .map_err(|source| Error::Transport { what: format!("control channel {address} failed"), source })?),
        }
    }

    /// Shuts down the worker and removes its sockets.
    fn finish(&mut self, why: Option<String>) {
        // A stock engine waits up to an hour for the answer to a command.
        if self.asks == Asks::Command {
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            self.answer(format!("the plugin is shutting down{why}").into_bytes());
        }
        let give_up = deadline_after(FAREWELL);
        while self.asks == Asks::Answered {
            match self.inbox.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(Event::Command(_)) => {}
                Ok(Event::Sent | Event::Ended(_)) | Err(_) => self.asks = Asks::Nothing,
            }
        }
        self.request.close();
        if let Some(worker) = self.worker.take() {
            worker.end();
            if !worker.ends_by(deadline_after(LEAVE)) {
                tracing::warn!(pid = worker.pid(), "the worker did not end in time and is killed");
            }
            let (_, held) = worker.reap();
            settle(held, &self.marks, SETTLE);
        }
        let (_, sink) = self.roster.worker_died("the plugin is shutting down", Instant::now());
        let sinks: Vec<_> = self.roster.sinks().cloned().chain(sink).collect();
        sinks.iter().for_each(|sink| self.sweep(sink));
        // No process listens for the engine's next message any more.
        let give_up = deadline_after(FAREWELL);
        sinks.iter().for_each(|sink| self.refuse_owed(sink, give_up));
    }

    /// Acknowledges as failed the messages that were in flight when the last
    /// worker died: no other worker will.
    fn refuse_owed(&self, meta: &Meta, give_up: Instant) {
        let owed = self.marks.known(meta).map_or(0, |mark| mark.owed());
        let Ok(address) = self.site.folder.ack(meta) else { return };
        if owed == 0 {
            return;
        }
        match refuse(&self.site, &address, &[(owed, UNKNOWN_MESSAGE)], give_up) {
            Ok(()) => {
                tracing::error!(%meta, messages = owed, "messages in flight when the worker died are acknowledged as failed")
            }
            Err(error) => {
                tracing::debug!(%meta, error = %Chain(&error), "messages in flight when the worker died cannot be acknowledged")
            }
        }
    }
}

/// Passes commands from the control channel to the supervisor, and answers back.
struct Courier {
    events: mpsc::Sender<Event>,
    wake: Arc<Flag>,
    answered: mpsc::Receiver<Vec<u8>>,
}

impl Courier {
    /// Performs the handshake with the engine and serves it on a thread.
    fn start(
        mut self,
        request: Arc<dyn Request>,
        absence: Duration,
        greeting: Vec<u8>,
        on_silence: impl Fn() + Send + 'static,
    ) -> Result<()> {
        std::thread::Builder::new().name("control".into()).spawn(move || {
            let patience = Patience { absence, on_silence: &on_silence };
            let ended = channel::serve(&*request, Some(patience), &greeting, &mut self);
            self.tell(Event::Ended(ended));
        })?;
        Ok(())
    }

    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
        self.wake.raise();
    }
}

impl channel::Answer for Courier {
    fn answer(&mut self, command: &mut Vec<u8>, reply: &mut Vec<u8>) {
        self.tell(Event::Command(command.to_vec()));
        match self.answered.recv() {
            Ok(answer) => reply.extend_from_slice(&answer),
            Err(_) => reply.extend_from_slice(b"the plugin is shutting down"),
        }
    }

    fn refuse(&mut self, text: &str, reply: &mut Vec<u8>) {
        command::refuse(text, reply);
    }

    fn sent(&mut self) {
        self.tell(Event::Sent);
    }
}
