//! Calls of one function in several processes of its plugin.

mod call;
pub(super) mod dispatch;
mod lane;
mod many;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use ekuiper_core::message::{Arguments, CallKind, FunctionMeta};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::many::ManyError;
use super::options::{CallOptions, Terms};
use super::route::FunctionRoute;
use super::{FunctionStopper, Stops, default_meta};
use crate::background::Task;
use crate::plugin::Plugin;
use crate::{Error, Result};
pub use call::{PooledCall, PooledColumns};
use dispatch::Pool;

/// Builder of a [`FunctionPool`].
#[must_use = "it does nothing until it is opened"]
pub struct FunctionPoolBuilder {
    plugin: Result<Arc<Plugin>>,
    symbol: String,
    meta: FunctionMeta,
    size: Option<usize>,
    is_as_described: bool,
    is_ordered: bool,
}

/// Returns the size of a pool that is given none.
fn usual_size(plugin: &Plugin, symbol: &str) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    plugin.function_options(symbol).processes.unwrap_or_else(processors)
}

/// Returns the size of a pool that has several processes only if they are
/// declared, by the plugin or in its options.
fn described_size(plugin: &Plugin, symbol: &str) -> usize {
    let is_set = plugin.function_options(symbol).processes.is_some();
    let is_parallel = is_set || (plugin.declares_parallel(symbol) && plugin.can_have_members());
    if is_parallel { usual_size(plugin, symbol) } else { 1 }
}

impl FunctionPoolBuilder {
    pub(crate) fn new(plugin: Result<Arc<Plugin>>, symbol: &str) -> Self {
        let (symbol, meta) = (symbol.to_owned(), default_meta(symbol));
        Self { plugin, symbol, meta, size: None, is_as_described: false, is_ordered: true }
    }

    /// Sets the maximum number of processes, at least 1. Default: that of the
    /// [plugin's options](crate::PluginOptions::processes), or the number of
    /// processors that the host may use.
    pub fn size(mut self, processes: usize) -> Self {
        self.size = Some(processes.max(1));
        self
    }

    /// Has the pool be one of 1, whose calls are executed one after the other,
    /// unless the plugin [describes](crate::Host::description) the function as
    /// `parallel`, or the [plugin's options](crate::PluginOptions::processes) or
    /// [`size`](FunctionPoolBuilder::size) say how many processes there are to
    /// be.
    pub fn as_described(mut self) -> Self {
        self.is_as_described = true;
        self
    }

    /// Sets whether [`FunctionPool::call_many_into`] passes the outcomes on in
    /// the order of their rows, or as they come. Default: in order.
    pub fn ordered(mut self, is_ordered: bool) -> Self {
        self.is_ordered = is_ordered;
        self
    }

    /// Sets the rule, operator and instance that the calls carry. Default: as
    /// for [`Function::with_meta`](crate::Function::with_meta).
    pub fn meta(mut self, meta: FunctionMeta) -> Self {
        self.meta = meta;
        self
    }

    /// Opens the pool, after starting the plugin's first process and the
    /// function in it. The other processes are started when calls wait for
    /// them.
    ///
    /// # Errors
    /// As [`Host::function`](crate::Host::function);
    /// [`Error::NotPoolable`] for a pool of more than one process of a plugin
    /// on an official SDK.
    pub fn open(self) -> Result<FunctionPool> {
        let Self { plugin, symbol, meta, size, is_as_described, is_ordered } = self;
        let plugin = plugin?;
        let route = FunctionRoute::open_uncounted(plugin.clone(), &symbol, meta)?;
        // The plugin is known from here on.
        let size = size.unwrap_or_else(|| match is_as_described {
            true => described_size(&plugin, &symbol),
            false => usual_size(&plugin, &symbol),
        });
        let options = plugin.function_options(&symbol).calls;
        if size > 1 && !plugin.can_have_members() {
            return Err(Error::NotPoolable { plugin: plugin.name().to_owned(), symbol, size });
        }
        Ok(FunctionPool { pool: Pool::new(plugin, route, size), options, is_ordered })
    }

    /// [Opens](FunctionPoolBuilder::open) the pool in a thread of the host, for
    /// a caller that must not block.
    ///
    /// # Errors
    /// As [`FunctionPoolBuilder::open`].
    pub fn open_async(self) -> Task<Result<FunctionPool>> {
        match &self.plugin {
            Ok(plugin) => plugin.clone().site.openings.start(move || self.open()),
            Err(error) => Task::done(Err(error.clone())),
        }
    }
}

/// A function whose calls are executed by several processes of its plugin at
/// the same time. Cheap to clone.
///
/// The engine declares with it that the function can run in parallel: no call
/// relies on what an earlier one has left in the plugin's memory.
///
/// Calls begin in the order in which they are made, each in a process that is
/// free, and may end in another order; calls that are awaited one after the
/// other are executed one after the other. A process gets several short calls
/// together, about a millisecond's work.
///
/// The first process is the plugin's ordinary one, so a pool of 1 does what
/// [`Function`](crate::Function) does. The others are started when calls wait
/// for them, have their own socket folders and lifecycles, and are shared by
/// all pools of the plugin; they end with the last pool that uses them. The
/// plugin's sources and sinks run in the first process alone.
#[derive(Clone)]
pub struct FunctionPool {
    pool: Arc<Pool>,
    options: CallOptions,
    is_ordered: bool,
}

impl fmt::Debug for FunctionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionPool")
            .field("symbol", &self.name())
            .field("size", &self.size())
            .field("is_ordered", &self.is_ordered)
            .finish_non_exhaustive()
    }
}

impl FunctionPool {
    /// Returns the function's name.
    pub fn name(&self) -> &str {
        &self.pool.symbol
    }

    /// Returns the maximum number of processes.
    pub fn size(&self) -> usize {
        self.pool.size()
    }

    /// Returns the options of its calls, as
    /// [`Function::options`](crate::Function::options).
    pub fn options(&self) -> CallOptions {
        self.options
    }

    pub(crate) fn is_as_described_by(&self, plugin: &Arc<Plugin>) -> bool {
        Arc::ptr_eq(plugin, self.pool.plugin()) && self.size() == described_size(plugin, self.name())
    }

    /// Returns the same pool, whose calls have these options. An
    /// [idempotent](CallOptions::idempotent) call whose process ends is made
    /// once more at once, in another process.
    pub fn with_options(self, options: CallOptions) -> Self {
        Self { options, ..self }
    }

    /// Returns a handle that ends every wait on this pool, its clones and what
    /// [`with_options`](FunctionPool::with_options) has made of them.
    pub fn stopper(&self) -> FunctionStopper {
        FunctionStopper(Stops::Pool(self.pool.clone()))
    }

    /// Calls the function: `revert.call::<String>(("hello",))`.
    ///
    /// # Errors
    /// As [`Function::call`](crate::Function::call).
    pub fn call<R: DeserializeOwned>(&self, args: impl Arguments) -> Result<R> {
        self.call_async(args)?.wait()
    }

    /// Makes a call without waiting for anything. [`PooledCall`] is a future of
    /// its result, and [`PooledCall::wait`] blocks for it.
    ///
    /// # Errors
    /// As [`Function::call_async`](crate::Function::call_async).
    pub fn call_async<R: DeserializeOwned>(&self, args: impl Arguments) -> Result<PooledCall<R>> {
        self.pool.admit()?;
        self.make(&args)
    }

    /// Calls the function for many rows of arguments, in all processes at once.
    /// Returns one outcome per row, in the order of the rows, with the
    /// function's error text where it failed.
    ///
    /// # Errors
    /// [`ManyError`], which has the outcomes of the rows before the first one
    /// without an answer, as for [`Function::call`](crate::Function::call);
    /// other rows may have been computed nevertheless. `?` turns it into an
    /// [`Error`].
    pub fn call_many<R, A>(&self, rows: impl IntoIterator<Item = A>) -> Result<Vec<Result<R, String>>, ManyError<R>>
    where
        R: DeserializeOwned,
        A: Arguments,
    {
        many::call_many(self, rows.into_iter())
    }

    /// Calls the function for many rows of arguments, in all processes at once,
    /// and passes each row's number and outcome to `each`: in the order of the
    /// rows, or as they come, as [declared](FunctionPoolBuilder::ordered).
    ///
    /// # Errors
    /// As [`Function::call`](crate::Function::call), when the answer to a row is
    /// missing. `each` has got the outcomes of the rows before it, or those that
    /// came before.
    pub fn call_many_into<R, A>(
        &self,
        rows: impl IntoIterator<Item = A>,
        each: impl FnMut(usize, Result<&R, &str>),
    ) -> Result<()>
    where
        R: DeserializeOwned,
        A: Arguments,
    {
        many::call_many_into(self, rows.into_iter(), each)
    }

    /// Calls the function with columns, as
    /// [`Function::call_columns`](crate::Function::call_columns).
    ///
    /// # Errors
    /// As [`Function::call_columns`](crate::Function::call_columns).
    pub fn call_columns(&self, stream: &[u8]) -> Result<Vec<u8>> {
        self.call_columns_async(stream)?.wait()
    }

    /// Calls the function with columns without waiting for anything.
    /// [`PooledColumns`] is a future of the result, and [`PooledColumns::wait`]
    /// blocks for it.
    ///
    /// # Errors
    /// As [`Function::call_columns_async`](crate::Function::call_columns_async).
    pub fn call_columns_async(&self, stream: &[u8]) -> Result<PooledColumns> {
        self.pool.admit()?;
        let mut columns = Vec::with_capacity(stream.len());
        super::write_stream(&mut columns, stream).map_err(|source| self.pool.unsent(source))?;
        self.make_columns(columns, 0, Terms::of(&self.options, &self.pool.site().options), self.options.due())
    }

    /// Fails if too many calls wait.
    #[cfg(any(feature = "arrow59", feature = "c-data"))]
    pub(super) fn admit(&self) -> Result<()> {
        self.pool.admit()
    }

    /// Returns the function in the first process.
    #[cfg(any(feature = "arrow59", feature = "c-data"))]
    pub(super) fn first(&self) -> &Arc<FunctionRoute> {
        self.pool.first()
    }

    /// Makes a call with columns, however many wait.
    pub(super) fn make_columns(
        &self,
        stream: Vec<u8>,
        first: usize,
        terms: Terms,
        due: Option<super::options::Due>,
    ) -> Result<PooledColumns> {
        let entry = self.pool.add_columns(stream, first, terms, due)?;
        Ok(PooledColumns(PooledCall { pool: self.pool.clone(), entry, result: PhantomData }))
    }

    /// Asks the function whether it accepts these arguments, as
    /// [`Function::validate`](crate::Function::validate). The first process
    /// answers.
    ///
    /// # Errors
    /// As [`Function::call`](crate::Function::call).
    pub fn validate(&self, args: impl Arguments) -> Result<()> {
        self.pool.asked().ask::<IgnoredAny>(CallKind::Validate, &args, None).map(|_| ())
    }

    /// Asks the function whether it takes all values of a window at once. The
    /// first process answers.
    ///
    /// # Errors
    /// As [`Function::call`](crate::Function::call).
    pub fn is_aggregate(&self) -> Result<bool> {
        self.pool.asked().ask(CallKind::IsAggregate, &(), None)
    }

    /// Makes a call, however many wait.
    fn make<R>(&self, args: &impl Arguments) -> Result<PooledCall<R>> {
        self.make_due(args, self.options.due())
    }

    pub(super) fn make_due<R>(&self, args: &impl Arguments, due: Option<super::options::Due>) -> Result<PooledCall<R>> {
        let entry = self.pool.add(args, &self.options, due)?;
        Ok(PooledCall { pool: self.pool.clone(), entry, result: PhantomData })
    }
}
