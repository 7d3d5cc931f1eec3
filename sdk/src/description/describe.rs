//! What an author says about a function beyond its types.

use ekuiper_core::description::{FunctionDescription, Volatility};

use crate::raw_function::{BoxedFunction, IntoFunction};

/// Adds a description to a function: names, texts, and what an engine may do
/// with its calls.
///
/// ```
/// use ekuiper_sdk::prelude::*;
///
/// let plugin = Plugin::new("mirror").function(
///     "clamp",
///     describe(|value: f64, low: f64, high: f64| value.max(low).min(high))
///         .doc("The value, or the limit that it exceeds.")
///         .arguments(["value", "low", "high"])
///         .example("clamp(temperature, -40, 85)")
///         .volatility(Volatility::Immutable),
/// );
/// let clamp = &plugin.description()?.functions[0];
/// assert_eq!((clamp.arguments[1].name.as_str(), clamp.result.to_string().as_str()), ("low", "float"));
/// # Ok::<(), BoxError>(())
/// ```
pub fn describe<F>(function: F) -> Described<F> {
    Described { function, declared: Declared::default() }
}

/// A function with a description: see [`describe`].
#[must_use = "a description has an effect where it is added to a plugin"]
pub struct Described<F> {
    function: F,
    declared: Declared,
}

/// What the author has declared.
#[derive(Default)]
pub(crate) struct Declared {
    doc: Option<String>,
    example: Option<String>,
    arguments: Option<Vec<String>>,
    pub(crate) idempotent: bool,
    parallel: bool,
    volatility: Option<Volatility>,
}

impl<F> Described<F> {
    /// Says what the function does, in one line.
    pub fn doc(mut self, doc: impl Into<String>) -> Self {
        self.declared.doc = Some(doc.into());
        self
    }

    /// Shows a call, such as `repeat('ab', 2)`.
    pub fn example(mut self, call: impl Into<String>) -> Self {
        self.declared.example = Some(call.into());
        self
    }

    /// Names the arguments, all of them and in order.
    pub fn arguments<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.declared.arguments = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Declares that a call may be executed twice: a call that was in flight
    /// when the worker of a [supervised](crate::Plugin::supervised) plugin died
    /// is retried once instead of answered with an error.
    pub fn idempotent(mut self) -> Self {
        self.declared.idempotent = true;
        self
    }

    /// Declares that calls are independent of each other: the function keeps no
    /// state between them, so that an engine may distribute them over several
    /// instances of the plugin.
    pub fn parallel(mut self) -> Self {
        self.declared.parallel = true;
        self
    }

    /// Declares how results depend on arguments, so that an engine may reuse
    /// them.
    pub fn volatility(mut self, volatility: Volatility) -> Self {
        self.declared.volatility = Some(volatility);
        self
    }
}

/// The marker that distinguishes a [`Described`] function from a closure.
#[doc(hidden)]
pub struct ByDescription<Marker>(Marker);

impl<Marker, F: IntoFunction<Marker>> IntoFunction<ByDescription<Marker>> for Described<F> {
    fn into_function(self, aggregate: bool) -> BoxedFunction {
        let mut function = self.function.into_function(aggregate);
        function.declared = self.declared;
        function
    }
}

#[cfg(feature = "arrow")]
impl<Marker, F: crate::columns::IntoColumnar<Marker>> crate::columns::IntoColumnar<ByDescription<Marker>>
    for Described<F>
{
    fn into_columnar(self) -> BoxedFunction {
        let mut function = self.function.into_columnar();
        function.declared = self.declared;
        function
    }
}

impl Declared {
    pub(crate) fn names_arguments(&self) -> bool {
        self.arguments.is_some()
    }

    /// Adds what is declared to what is known.
    ///
    /// # Errors
    /// The names do not fit the arguments.
    pub(crate) fn add_to(&self, function: &mut FunctionDescription) -> Result<(), String> {
        if let Some(doc) = &self.doc {
            function.doc.clone_from(doc);
        }
        if let Some(example) = &self.example {
            function.example.clone_from(example);
        }
        function.idempotent |= self.idempotent;
        function.parallel |= self.parallel;
        function.volatility = self.volatility.or(function.volatility);
        let Some(names) = &self.arguments else { return Ok(()) };
        let (taken, further) = (function.arguments.len(), usize::from(function.variadic.is_some()));
        if names.len() < taken || names.len() > taken + further {
            return Err(format!("takes {}, but {} named", counted(taken), are(names.len())));
        }
        let arguments = function.arguments.iter_mut().chain(&mut function.variadic);
        arguments.zip(names).for_each(|(argument, name)| argument.name.clone_from(name));
        Ok(())
    }
}

fn counted(arguments: usize) -> String {
    format!("{arguments} argument{}", if arguments == 1 { "" } else { "s" })
}

fn are(names: usize) -> String {
    format!("{names} {}", if names == 1 { "is" } else { "are" })
}
