//! Calls of a plugin's function.

#[cfg(any(feature = "arrow59", feature = "c-data"))]
mod by_rows;
#[cfg(any(feature = "arrow59", feature = "c-data"))]
#[cfg_attr(not(feature = "arrow59"), allow(unreachable_pub, reason = "arrow59 exports it"))]
pub(crate) mod columns;
mod command;
pub(crate) mod many;
pub(crate) mod options;
pub(crate) mod pending;
mod pipeline;
pub(crate) mod pool;
mod route;
mod spin;

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use ekuiper_core::message::{Arguments, CallKind, FunctionMeta, is_columns};
use serde::de::DeserializeOwned;

use crate::Result;
use crate::plugin::Plugin;
use crate::target::default_rule;
use many::ManyError;
use options::{CallOptions, Terms};
use pending::{PendingCall, PendingColumns};
use pipeline::Pipeline;
use pool::dispatch::Pool;
use route::FunctionRoute;

/// A function of a plugin. Cheap to clone; calls of the same function are
/// executed one at a time, from whichever clone.
///
/// Two are equal if they call the same function of the same plugin for the same
/// rule, operator and instance, with the same options.
#[derive(Clone)]
pub struct Function {
    route: Arc<FunctionRoute>,
    pipeline: Arc<Pipeline>,
    options: CallOptions,
    /// A call needs nothing but the default options.
    is_plain: bool,
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.route.plugin, &other.route.plugin)
            && self.route.symbol == other.route.symbol
            && self.route.meta == other.route.meta
            && self.options == other.options
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.route.plugin).hash(state);
        self.route.symbol.hash(state);
        self.route.meta.hash(state);
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function")
            .field("symbol", &self.route.symbol)
            .field("meta", &self.route.meta)
            .finish_non_exhaustive()
    }
}

impl Function {
    pub(crate) fn new(plugin: Arc<Plugin>, symbol: &str) -> Result<Self> {
        let options = plugin.function_options(symbol).calls;
        Ok(Self::of(FunctionRoute::open(plugin, symbol, default_meta(symbol))?).with_options(options))
    }

    fn of(route: FunctionRoute) -> Self {
        let route = Arc::new(route);
        Self { pipeline: Pipeline::new(route.clone(), None), route, options: CallOptions::default(), is_plain: true }
    }

    /// Returns the function's name.
    pub fn name(&self) -> &str {
        &self.route.symbol
    }

    /// Returns the options of its calls: those that
    /// [`with_options`](Function::with_options) has set, or else those of the
    /// [plugin's options](crate::PluginOptions::calls).
    pub fn options(&self) -> CallOptions {
        self.options
    }

    /// Returns the function with the rule, operator and instance that its calls
    /// carry. Default: a rule named after this process, with an operator of the
    /// function's name.
    pub fn with_meta(self, meta: FunctionMeta) -> Self {
        Self::of(self.route.with_meta(meta)).with_options(self.options)
    }

    /// Returns the same function, whose calls have these options: their
    /// deadlines, whether they may be executed twice, and how many are sent
    /// together.
    pub fn with_options(self, options: CallOptions) -> Self {
        Self { options, is_plain: options.is_default(), ..self }
    }

    /// Returns a handle that ends every wait on this function from another
    /// thread: on this handle, its clones, and what
    /// [`with_options`](Function::with_options) has made of them.
    pub fn stopper(&self) -> FunctionStopper {
        self.pipeline.enable_stop();
        FunctionStopper(Stops::Function(self.pipeline.clone()))
    }

    /// Calls the function: `revert.call::<String>(("hello",))`.
    ///
    /// # Errors
    /// [`Error::Function`](crate::Error::Function) with the function's error
    /// text; or there is no answer: [`Timeout`](crate::Error::Timeout),
    /// [`OutcomeUnknown`](crate::Error::OutcomeUnknown) and others.
    pub fn call<R: DeserializeOwned>(&self, args: impl Arguments) -> Result<R> {
        if self.is_plain && !self.pipeline.has_stopper() {
            return self.route.call(&args);
        }
        self.call_async(args)?.wait()
    }

    /// Calls the function for many rows of arguments. Returns one outcome per
    /// row, in order, with the function's error text where it failed.
    ///
    /// A plugin on our SDK gets many rows per message, and computes them while
    /// the host encodes the next message; any other plugin gets one call per
    /// row.
    ///
    /// # Errors
    /// [`ManyError`], which has the outcomes that are there, when the answer to
    /// a batch is missing, as for [`Function::call`]; other rows may have been
    /// computed nevertheless. `?` turns it into an [`Error`](crate::Error).
    pub fn call_many<R, A>(&self, rows: impl IntoIterator<Item = A>) -> Result<Vec<Result<R, String>>, ManyError<R>>
    where
        R: DeserializeOwned + Send + 'static,
        A: Arguments,
    {
        many::call_many(self, rows.into_iter())
    }

    /// Calls the function for many rows of arguments, as
    /// [`call_many`](Function::call_many), and passes each row's number and
    /// outcome to `each`, in order, as soon as its batch is answered. All
    /// results are decoded into the same value, where its type can do that: a
    /// `String` or a `Vec` keeps its memory.
    ///
    /// # Errors
    /// As [`Function::call`], when the answer to a batch is missing: `each` has
    /// got the outcomes of the rows before it.
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

    /// Calls the function with columns, one for each argument, which are an
    /// Arrow IPC stream of one record batch; returns a stream of one column,
    /// with a value for each row. It is one call: if the function fails for a
    /// row, the whole call fails, with the row's number.
    ///
    /// Works with every version of every Arrow library;
    /// `arrow59::call_columns` does it with record batches, splits long ones,
    /// and calls a plugin that takes no columns with rows. The
    /// [options](Function::with_options) apply as to one call of a row.
    ///
    /// # Errors
    /// [`NoColumns`](crate::Error::NoColumns), when the plugin takes none;
    /// otherwise as [`Function::call`].
    pub fn call_columns(&self, stream: &[u8]) -> Result<Vec<u8>> {
        if self.is_plain && !self.pipeline.has_stopper() {
            return self.route.call_columns(0, |request| write_stream(request, stream), |reply| Ok(reply.to_vec()));
        }
        self.call_columns_async(stream)?.wait()
    }

    /// Calls the function with columns, as [`call_columns`](Function::call_columns),
    /// without waiting for anything. [`PendingColumns`] is a future of the result,
    /// and [`PendingColumns::wait`] blocks for it.
    ///
    /// # Errors
    /// [`NoColumns`](crate::Error::NoColumns), when the plugin takes none;
    /// [`QueueFull`](crate::Error::QueueFull), when too many calls wait.
    pub fn call_columns_async(&self, stream: &[u8]) -> Result<PendingColumns> {
        let terms = Terms::of(&self.options, &self.route.plugin.site.options);
        let due = self.options.due();
        let added = self
            .pipeline
            .admit()
            .and_then(|()| self.pipeline.add_columns(0, |request| write_stream(request, stream), terms, due));
        let command = added.map_err(|error| self.route.counted.begin(1, Instant::now()).fail(error))?;
        Ok(PendingColumns::new(self.pipeline.clone(), command))
    }

    /// Makes a call without waiting for anything. [`PendingCall`] is a future of
    /// its result, and [`PendingCall::wait`] blocks for it.
    ///
    /// Calls are made at once, in their order, whether or not anything waits
    /// for their results. To a plugin on our SDK, calls made while one is in
    /// flight are sent as one batch; any other plugin gets one call after the
    /// other.
    ///
    /// # Errors
    /// The arguments cannot be encoded;
    /// [`QueueFull`](crate::Error::QueueFull), when too many calls wait.
    pub fn call_async<R: DeserializeOwned>(&self, args: impl Arguments) -> Result<PendingCall<R>> {
        let (command, row) = self.pipeline.add(&args, &self.options)?;
        Ok(PendingCall::new(self.pipeline.clone(), command, row))
    }

    /// Asks the function whether it accepts these arguments; plugins check at
    /// least their number.
    ///
    /// # Errors
    /// As [`Function::call`].
    pub fn validate(&self, args: impl Arguments) -> Result<()> {
        self.route.ask::<serde::de::IgnoredAny>(CallKind::Validate, &args, None).map(|_| ())
    }

    /// Asks the function whether it takes all values of a window at once.
    ///
    /// # Errors
    /// As [`Function::call`].
    pub fn is_aggregate(&self) -> Result<bool> {
        self.route.ask(CallKind::IsAggregate, &(), None)
    }
}

/// Writes columns that an engine has encoded.
fn write_stream(request: &mut Vec<u8>, stream: &[u8]) -> ekuiper_core::Result<()> {
    if !is_columns(stream) {
        let source = serde::de::Error::custom("they are no Arrow IPC stream");
        return Err(ekuiper_core::Error::Encode { what: "the columns", source });
    }
    request.extend_from_slice(stream);
    Ok(())
}

/// Returns the rule, operator and instance of calls whose engine names none.
fn default_meta(symbol: &str) -> FunctionMeta {
    // The official Go SDK executes nothing without a rule and an operator.
    FunctionMeta { rule_id: default_rule(), op_id: symbol.to_owned(), ..FunctionMeta::default() }
}

/// Handle that ends the waits on a [`Function`], or a
/// [`FunctionPool`](crate::FunctionPool), from another thread.
#[derive(Clone)]
pub struct FunctionStopper(Stops);

#[derive(Clone)]
enum Stops {
    Function(Arc<Pipeline>),
    Pool(Arc<Pool>),
}

impl FunctionStopper {
    /// Ends every wait with [`Error::Stopped`](crate::Error::Stopped), and
    /// refuses every later call. Calls that were not sent are not executed;
    /// those that were are cancelled at a plugin on our SDK.
    pub fn stop(&self) {
        match &self.0 {
            Stops::Function(pipeline) => pipeline.stop(),
            Stops::Pool(pool) => pool.stop(),
        }
    }
}
