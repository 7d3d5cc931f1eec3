//! Which process gets which call. Calls wait in one queue, in the order in
//! which they were made; the first goes to the process that has the fewest.
//!
//! As a pipeline, the pool has no thread and does not block: it
//! [advances](Pool::advance) in the thread of each event that it may wait for.
//! One thread at a time does, and tells callers and pipelines what is new
//! without holding a lock. What may block, the start of a process, is done by a
//! thread of the host.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use ekuiper_core::exchange::NotReady;
use ekuiper_core::instant::later;
use ekuiper_core::message::{Arguments, CallKind, EncodedArgs, FunctionMeta};
use ekuiper_transport_ipc::wait::deadline_after;

use super::call::{Entry, Load};
use super::lane::{Given, Lane, Phase};
use crate::channel::Failure;
use crate::channel::idle_reader::Timer;
use crate::function::options::{CallOptions, Due, Terms};
use crate::function::pending::PendingCall;
use crate::function::pipeline::Pipeline;
use crate::function::route::{FunctionConnection, FunctionRoute, place};
use crate::health::ledger::Counted;
use crate::plugin::Plugin;
use crate::plugin::members::Member;
use crate::site::Site;
use crate::sync::{Turns, lock, wake_tasks};
use crate::{Error, ErrorDelivery, ErrorKind, Result};

/// Pause before a process that has not answered in time is tried again.
const HUNG_PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Pool {
    plugin: Arc<Plugin>,
    pub(super) symbol: Arc<str>,
    meta: FunctionMeta,
    /// The function in the first process.
    first: Arc<FunctionRoute>,
    pub(super) counted: Arc<Counted>,
    state: Mutex<State>,
    /// Has one thread at a time [advance](Pool::advance) the pool.
    turns: Turns,
    /// Advances the pool.
    waker: Waker,
    /// Number of calls that keep all processes busy.
    appetite: AtomicUsize,
    is_stopped: AtomicBool,
}

struct State {
    /// Number of calls that were made.
    calls: u64,
    /// In the order in which they were made.
    waiting: VecDeque<Arc<Entry>>,
    lanes: Vec<Lane>,
    /// Since when no process can be called.
    away_since: Option<Instant>,
    timer: Option<(Instant, Timer)>,
    /// No deadline of a call that waits is earlier.
    first_due: Option<Instant>,
}

/// What is done next, without a lock.
enum Step {
    /// These have outcomes from the process with this number.
    Tell(usize, Vec<Given>),
    Give(usize, Arc<Pipeline>, Arc<Entry>),
    /// Take the calls back that are behind one that takes long.
    Withdraw(Arc<Pipeline>),
    Connect(usize),
    /// Have these processes, which did not answer in time, done so since?
    Probe(Vec<(usize, FunctionConnection)>),
    Fail(Vec<Arc<Entry>>, Error),
    /// The deadlines of these have passed.
    Expire(VecDeque<Arc<Entry>>),
}

struct AdvanceOnWake(Weak<Pool>);

impl Wake for AdvanceOnWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(pool) = self.0.upgrade() {
            pool.advance();
        }
    }
}

impl Pool {
    pub(super) fn new(plugin: Arc<Plugin>, first: FunctionRoute, size: usize) -> Arc<Self> {
        let first = Arc::new(first);
        let counted = plugin.ledger.function(place(&first.symbol, &first.meta), plugin.all_restarts());
        Arc::new_cyclic(|own: &Weak<Self>| {
            let mut lanes: Vec<_> = (0..size).map(|_| Lane::new(own.clone())).collect();
            let pipeline = Pipeline::new(first.clone(), Some(Waker::from(lanes[0].watcher.clone())));
            lanes[0].connected(pipeline);
            let waiting = VecDeque::new();
            let state = State { calls: 0, waiting, lanes, away_since: None, timer: None, first_due: None };
            Self {
                plugin,
                symbol: first.symbol.clone(),
                meta: first.meta.clone(),
                first,
                counted,
                state: Mutex::new(state),
                turns: Turns::default(),
                waker: Waker::from(Arc::new(AdvanceOnWake(own.clone()))),
                appetite: AtomicUsize::new(2 * size),
                is_stopped: AtomicBool::new(false),
            }
        })
    }

    pub(super) fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    pub(super) fn site(&self) -> &Site {
        &self.plugin.site
    }

    pub(super) fn size(&self) -> usize {
        lock(&self.state).lanes.len()
    }

    /// Returns how many calls keep all processes busy.
    pub(super) fn appetite(&self) -> usize {
        self.appetite.load(Ordering::Relaxed)
    }

    /// Returns the function in the first process.
    #[cfg(any(feature = "arrow59", feature = "c-data"))]
    pub(super) fn first(&self) -> &Arc<FunctionRoute> {
        &self.first
    }

    /// Returns the function in the first process, for questions.
    pub(super) fn asked(&self) -> FunctionRoute {
        self.first.with_meta(self.meta.clone())
    }

    /// Fails if too many calls wait.
    pub(super) fn admit(&self) -> Result<()> {
        let site = self.site();
        match site.waiting_calls.load(Ordering::Relaxed) >= site.options.call_queue {
            true => Err(self.unmade(self.first.queue_full())),
            false => Ok(()),
        }
    }

    /// Returns the error of columns that cannot be sent.
    pub(super) fn unsent(&self, source: ekuiper_core::Error) -> Error {
        self.unmade(self.first.unsent(CallKind::Columns, source))
    }

    /// Counts a call that could not be made.
    fn unmade(&self, error: Error) -> Error {
        self.counted.begin(1, Instant::now()).fail(error)
    }

    /// Adds a call.
    pub(super) fn add(
        self: &Arc<Self>,
        args: &impl Arguments,
        options: &CallOptions,
        due: Option<Due>,
    ) -> Result<Arc<Entry>> {
        let format = self.first.latest().format();
        let args =
            EncodedArgs::new(format, args).map_err(|source| self.unmade(self.first.unsent(CallKind::Exec, source)))?;
        self.add_load(Load::Row(args), Terms::of(options, &self.site().options), due)
    }

    /// Adds a call with columns, an Arrow IPC stream whose first row has this
    /// number.
    pub(super) fn add_columns(
        self: &Arc<Self>,
        stream: Vec<u8>,
        first: usize,
        terms: Terms,
        due: Option<Due>,
    ) -> Result<Arc<Entry>> {
        if !self.takes_columns() {
            return Err(self.unmade(self.first.no_columns()));
        }
        self.add_load(Load::Columns(stream, first), terms, due)
    }

    /// Returns whether the plugin takes columns.
    fn takes_columns(&self) -> bool {
        self.first.latest().takes_columns()
    }

    fn add_load(self: &Arc<Self>, load: Load, terms: Terms, due: Option<Due>) -> Result<Arc<Entry>> {
        if self.is_stopped.load(Ordering::SeqCst) {
            return Err(self.unmade(Error::Stopped));
        }
        let waiting = load.length() + size_of::<Entry>();
        self.site().waiting_calls.fetch_add(waiting, Ordering::Relaxed);
        let since = Instant::now();
        let mut state = lock(&self.state);
        state.calls += 1;
        let entry = Arc::new(Entry::new(state.calls, load, terms, due, since, waiting));
        self.counted.made(1, since);
        state.waiting.push_back(entry.clone());
        if let Some(due) = due {
            state.first_due = Some(state.first_due.map_or(due.at, |first| first.min(due.at)));
        }
        drop(state);
        self.advance();
        Ok(entry)
    }

    /// Ends every wait, and refuses every later call.
    pub(in crate::function) fn stop(self: &Arc<Self>) {
        self.is_stopped.store(true, Ordering::SeqCst);
        let mut state = lock(&self.state);
        let mut ended: Vec<_> = state.waiting.drain(..).collect();
        for lane in &mut state.lanes {
            for given in lane.given.iter_mut().filter(|given| !given.is_told) {
                given.is_told = true;
                ended.push(given.entry.clone());
            }
        }
        drop(state);
        for entry in ended {
            self.end(&entry, Some(Error::Stopped));
        }
        // Another may have been added meanwhile.
        self.advance();
    }

    /// Does what can be done now, without blocking. May be called by a thread
    /// that holds a channel.
    pub(super) fn advance(self: &Arc<Self>) {
        self.turns.take(|| {
            while let Some(step) = self.next_step() {
                self.take(step);
            }
        });
    }

    fn next_step(&self) -> Option<Step> {
        let mut state = lock(&self.state);
        let State { waiting, lanes, first_due, .. } = &mut *state;
        for (number, lane) in lanes.iter_mut().enumerate() {
            if lane.watcher.has_news.swap(false, Ordering::SeqCst) {
                let news = lane.reap();
                if !news.is_empty() {
                    let appetite = lanes.iter().map(|lane| 2 * lane.room()).sum();
                    self.appetite.store(appetite, Ordering::Relaxed);
                    return Some(Step::Tell(number, news));
                }
            }
        }
        let now = Instant::now();
        if first_due.is_some_and(|first| first <= now) {
            let is_due = |entry: &Arc<Entry>| entry.due.is_some_and(|due| due.at <= now);
            let (due, rest): (VecDeque<_>, VecDeque<_>) = waiting.drain(..).partition(is_due);
            *waiting = rest;
            *first_due = waiting.iter().filter_map(|entry| Some(entry.due?.at)).min();
            return Some(Step::Expire(due));
        }
        let mut stall = None;
        if lanes.len() > 1 {
            for lane in lanes.iter_mut() {
                match lane.stalls_at() {
                    Some(at) if at <= now => return lane.stall(now).map(Step::Withdraw),
                    at => stall = stall.into_iter().chain(at).min(),
                }
            }
        }
        while waiting.front().is_some_and(|entry| !entry.is_wanted()) {
            waiting.pop_front();
        }
        if waiting.is_empty() {
            state.away_since = None;
            if let Some(at) = stall {
                self.set_timer(&mut state, at, now);
            }
            return None;
        }
        if self.is_stopped.load(Ordering::SeqCst) {
            return Some(Step::Fail(waiting.drain(..).collect(), Error::Stopped));
        }
        if let Some(number) = free(lanes)
            && let Some(pipeline) = lanes[number].pipeline.clone()
            && let Some(entry) = waiting.pop_front()
        {
            state.away_since = None;
            return Some(Step::Give(number, pipeline, entry));
        }
        let usable: Vec<_> = lanes.iter().map(Lane::usable).collect();
        let is_stopped = |lane: &Lane| lane.is_stopped(&self.plugin);
        let may_be_retried = |lane: &Lane| lane.may_be_retried(&self.plugin, now);
        if let Some(number) = to_be_connected(lanes, &usable, is_stopped, may_be_retried, waiting.len()) {
            let is_restart = matches!(lanes[number].phase, Phase::Ready) && !is_stopped(&lanes[number]);
            lanes[number].phase = Phase::Connecting { is_restart };
            return Some(Step::Connect(number));
        }
        let is_away = lanes.iter().zip(&usable).all(|(lane, usable)| usable.is_none() || lane.is_hung);
        let connections = usable.into_iter().enumerate().zip(lanes.iter());
        let hung = connections.filter_map(|((number, usable), lane)| Some((number, usable.filter(|_| lane.is_hung)?)));
        let hung: Vec<_> = hung.collect();
        if is_away {
            let since = *state.away_since.get_or_insert(now);
            if let Some(step) = self.give_up(&mut state, since, hung.first().map(|(_, hung)| hung), now) {
                return Some(step);
            }
        } else {
            state.away_since = None;
        }
        // Processes that hang are looked at now and then while calls wait.
        let pause = (!hung.is_empty()).then(|| now + HUNG_PAUSE);
        if let Some(at) = pause
            && state.timer.as_ref().is_none_or(|(at, _)| *at <= now)
        {
            self.set_timer(&mut state, at, now);
            return Some(Step::Probe(hung));
        }
        let retries = state.lanes.iter().filter_map(|lane| match &lane.phase {
            // One that is due has been connected, or others are being started
            // for the calls that wait.
            Phase::Failed { retry_at, .. } => Some(*retry_at).filter(|at| *at > now),
            _ => None,
        });
        let patience = self.site().options.send_timeout;
        let gives_up =
            state.away_since.zip(state.waiting.front()).map(|(since, first)| later(since.max(first.since), patience));
        if let Some(at) = retries.chain(gives_up).chain(state.first_due).chain(pause).chain(stall).min() {
            self.set_timer(&mut state, at, now);
        }
        None
    }

    /// Fails the calls that wait while no process can be called: all at once if
    /// none is being started, and those that have waited for long.
    fn give_up(
        &self,
        state: &mut State,
        since: Instant,
        hung: Option<&FunctionConnection>,
        now: Instant,
    ) -> Option<Step> {
        if let Err(Error::Stopped) = self.plugin.check() {
            return Some(Step::Fail(state.waiting.drain(..).collect(), Error::Stopped));
        }
        let failure = state.lanes.iter().find_map(|lane| match &lane.phase {
            Phase::Failed { error, .. } => Some(error.clone()),
            _ => None,
        });
        if state.lanes.iter().all(|lane| matches!(lane.phase, Phase::Failed { .. })) {
            return Some(Step::Fail(state.waiting.drain(..).collect(), failure?));
        }
        let patience = self.site().options.send_timeout;
        let is_late = |entry: &Arc<Entry>| later(since.max(entry.since), patience) <= now;
        let late = state.waiting.iter().take_while(|entry| is_late(entry)).count();
        if late == 0 {
            return None;
        }
        let error = match (hung, failure) {
            (Some(hung), _) => {
                let what = self.first.what(CallKind::Exec);
                hung.running.explain(Failure::NotReady(NotReady::Busy), what, patience)
            }
            (None, Some(failure)) => failure,
            (None, None) => self.plugin.away_error(),
        };
        Some(Step::Fail(state.waiting.drain(..late).collect(), error))
    }

    /// Has the pool advance at this time, at the latest.
    fn set_timer(&self, state: &mut State, at: Instant, now: Instant) {
        if state.timer.as_ref().is_none_or(|(set, _)| *set <= now || *set > at) {
            let timer = self.site().idle_reader.wake_at(at, self.waker.clone());
            state.timer = Some((at, timer));
        }
    }

    fn take(self: &Arc<Self>, step: Step) {
        match step {
            Step::Tell(number, news) => self.tell(number, news),
            Step::Give(number, pipeline, entry) => self.give(number, pipeline, entry),
            Step::Withdraw(pipeline) => pipeline.withdraw(),
            Step::Connect(number) => self.connect(number),
            Step::Probe(hung) => {
                for (number, connection) in hung {
                    // The answer to the call that was given up may be there.
                    if connection.channel.is_ready() == Some(true) {
                        lock(&self.state).lanes[number].is_hung = false;
                    }
                }
            }
            Step::Fail(entries, error) => {
                for entry in entries {
                    self.end(&entry, Some(error.clone()));
                }
            }
            Step::Expire(entries) => {
                for entry in entries {
                    let after = entry.due.map_or(Duration::ZERO, |due| due.after);
                    self.end(&entry, Some(self.first.expired(after, false)));
                }
            }
        }
    }

    fn give(self: &Arc<Self>, number: usize, pipeline: Arc<Pipeline>, entry: Arc<Entry>) {
        // The pool itself makes a call a second time, in another process.
        let since = Instant::now();
        let terms = entry.terms.once();
        let added = match &entry.load {
            Load::Row(args) => pipeline.add_admitted(args, terms, entry.due),
            Load::Columns(stream, first) => {
                let write = |request: &mut Vec<u8>| {
                    request.extend_from_slice(stream);
                    Ok(())
                };
                pipeline.add_columns(*first, write, terms, entry.due).map(|command| (command, 0))
            }
        };
        self.site().waiting_calls.fetch_sub(entry.end_waiting(), Ordering::Relaxed);
        let (command, row) = match added {
            Ok(added) => added,
            Err(error) => return self.end(&entry, Some(error)),
        };
        entry.give(PendingCall::new(pipeline.clone(), command.clone(), row));
        let mut state = lock(&self.state);
        let lane = &mut state.lanes[number];
        if command.is_over(row) {
            lane.watcher.has_news.store(true, Ordering::SeqCst);
        }
        // A stop that has not seen it comes before.
        let is_stopped = self.is_stopped.load(Ordering::SeqCst);
        lane.add(Given { entry: entry.clone(), pipeline, command, row, is_told: is_stopped }, since);
        drop(state);
        if is_stopped {
            self.end(&entry, Some(Error::Stopped));
        }
    }

    /// Passes outcomes on, but for those of calls that are to be made again.
    fn tell(self: &Arc<Self>, number: usize, news: Vec<Given>) {
        let (mut again, mut wakers) = (Vec::new(), Vec::new());
        let mut is_hung = false;
        for given in news {
            let error = given.command.error(&given.pipeline.route, given.row);
            let was_sent = given.command.was_sent();
            // Otherwise only a caller's deadline has passed.
            let is_given_up = was_sent && given.command.is_settled();
            is_hung |= is_given_up && matches!(error, Some(Error::Timeout { .. }));
            let retried = match error {
                Some(error) if self.may_be_made_again(&given.entry, &error, was_sent) => {
                    let patience = self.site().options.send_timeout;
                    given.entry.take_back(error, was_sent, patience).map_err(Some)
                }
                error => Err(error),
            };
            match retried {
                Ok(()) => again.push(given.entry),
                Err(error) => {
                    if !was_sent && !given.entry.is_wanted() && given.entry.mark_counted() {
                        self.counted.given_up(1);
                    }
                    self.count(&given.entry, error.as_ref());
                    // The error is the command's, unless an earlier one is told.
                    let own = error.filter(|error| !matches!(error.delivery(), ErrorDelivery::Answered));
                    wakers.extend(given.entry.finish(own));
                }
            }
        }
        let mut state = lock(&self.state);
        state.lanes[number].is_hung |= is_hung;
        for entry in again {
            if let Some(due) = entry.due {
                state.first_due = Some(state.first_due.map_or(due.at, |first| first.min(due.at)));
            }
            let place = state.waiting.partition_point(|other| other.number < entry.number);
            state.waiting.insert(place, entry);
        }
        drop(state);
        wake_tasks(wakers);
    }

    /// Returns whether a call that has failed is made in another process: it was
    /// not sent for a reason that is its process's, or it is idempotent and its
    /// process has ended.
    fn may_be_made_again(&self, entry: &Entry, error: &Error, was_sent: bool) -> bool {
        if self.is_stopped.load(Ordering::SeqCst) || self.plugin.is_shut_down() {
            return false;
        }
        match error.kind() {
            ErrorKind::OutcomeUnknown => was_sent && entry.terms.is_idempotent,
            ErrorKind::Exited
            | ErrorKind::Away
            | ErrorKind::Broken
            | ErrorKind::Stopping
            | ErrorKind::Updating
            | ErrorKind::Replaced
            | ErrorKind::Shortage
            | ErrorKind::Stopped
            | ErrorKind::Timeout => !was_sent,
            _ => false,
        }
    }

    /// Ends a call that no process has executed.
    fn end(&self, entry: &Entry, error: Option<Error>) {
        self.site().waiting_calls.fetch_sub(entry.end_waiting(), Ordering::Relaxed);
        self.count(entry, error.as_ref());
        wake_tasks(entry.finish(error));
    }

    fn count(&self, entry: &Entry, error: Option<&Error>) {
        if !entry.mark_counted() {
            return;
        }
        match error {
            Some(error) if error.delivery() != ErrorDelivery::Answered => {
                self.counted.failed(1, error);
                self.counted.given_up(1);
            }
            error => {
                self.counted.answered(1, entry.since);
                error.iter().for_each(|error| self.counted.failed(1, error));
            }
        }
    }

    /// Has a thread of the host start a process, or wait for its restart.
    fn connect(self: &Arc<Self>, number: usize) {
        let mut state = lock(&self.state);
        let lane = &mut state.lanes[number];
        let (pipeline, watcher) = (lane.pipeline.clone(), lane.watcher.clone());
        let member = match (number, &lane.member) {
            (0, _) => Ok(None),
            (_, Some(member)) => Ok(Some(member.clone())),
            (_, None) => self.plugin.member(number).map(Some),
        };
        let member = match member {
            Ok(member) => member,
            Err(error) => {
                lane.failed(error.clone(), Instant::now());
                drop(state);
                return self.plugin.tell_member_failure(number, &error);
            }
        };
        lane.member.clone_from(&member);
        drop(state);
        let (first, symbol, meta) = (self.plugin.clone(), self.symbol.clone(), self.meta.clone());
        self.site().openings.run(move || {
            let begun = Instant::now();
            let connected = connect(&first, member.as_deref(), &symbol, meta, pipeline, &watcher.clone());
            if let Some(member) = &member {
                member.note_start(connected.as_ref().map(|_| ()));
            }
            // Dropped before the pool, which may end with this thread.
            drop(member);
            let Some(pool) = watcher.pool.upgrade() else { return };
            let mut state = lock(&pool.state);
            match connected {
                Ok(pipeline) => state.lanes[number].connected(pipeline),
                Err(error) => state.lanes[number].failed(error, begun),
            }
            drop(state);
            pool.advance();
        });
    }
}

/// Returns the process that has room, and of these the fewest calls.
fn free(lanes: &[Lane]) -> Option<usize> {
    let mut free: Option<(usize, usize)> = None;
    for (number, lane) in lanes.iter().enumerate() {
        let calls = lane.given.len();
        let is_better = free.is_none_or(|(_, fewest)| calls < fewest);
        if is_better && lane.has_room() && !lane.is_hung && lane.usable().is_some() {
            free = Some((number, calls));
        }
    }
    free.map(|(number, _)| number)
}

/// Returns the first process that is to be started, or whose restart is to be
/// waited for, for this many calls.
fn to_be_connected(
    lanes: &[Lane],
    usable: &[Option<FunctionConnection>],
    is_stopped: impl Fn(&Lane) -> bool,
    may_be_retried: impl Fn(&Lane) -> bool,
    waiting: usize,
) -> Option<usize> {
    let is_starting = |lane: &&Lane| matches!(lane.phase, Phase::Connecting { is_restart: false });
    let starting = lanes.iter().filter(is_starting).count();
    lanes.iter().zip(usable).position(|(lane, usable)| match &lane.phase {
        Phase::Ready => usable.is_none() && (starting < waiting || !is_stopped(lane)),
        Phase::Idle => starting < waiting,
        Phase::Failed { .. } => starting < waiting && may_be_retried(lane),
        Phase::Connecting { .. } => false,
    })
}

/// Connects the function in one process of its plugin; may block.
fn connect(
    first: &Arc<Plugin>,
    member: Option<&Member>,
    symbol: &str,
    meta: FunctionMeta,
    pipeline: Option<Arc<Pipeline>>,
    watcher: &Arc<super::lane::Watcher>,
) -> Result<Arc<Pipeline>> {
    if member.is_some() && !first.can_have_members() {
        // It was updated to a version on another SDK.
        let plugin = first.name().to_owned();
        return Err(Error::NotPoolable { plugin, symbol: symbol.to_owned(), size: 2 });
    }
    if let Some(pipeline) = pipeline {
        let deadline = deadline_after(first.site.options.send_timeout);
        return pipeline.route.connection(deadline).map(|_| pipeline);
    }
    let plugin = member.map_or(first, Member::plugin).clone();
    let route = FunctionRoute::open_uncounted(plugin, symbol, meta)?;
    Ok(Pipeline::new(Arc::new(route), Some(Waker::from(watcher.clone()))))
}
