//! A plugin's function as a function of SQL.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array,
};
use datafusion::arrow::compute::{self, cast};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{exec_datafusion_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::async_udf::AsyncScalarUDFImpl;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::scalar::ScalarValue;
use ekuiper_core::columns::{Cells, ColumnWriter};
use ekuiper_host::arrow59::{call_columns, call_columns_async};
use ekuiper_host::{ErrorKind, Function, FunctionPool, Host};
use serde_json::Value;

use crate::declaration::{Argument, Declaration};
use crate::error::external;
use crate::types::fits;

/// What becomes of a query when a function refuses a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnRefusal {
    /// The query fails, and says which row and why.
    #[default]
    Fail,
    /// The row's result is NULL.
    Null,
}

/// A plugin's function.
pub(crate) struct PluginFunction {
    host: Arc<Host>,
    pub(crate) declared: Declaration,
    signature: Signature,
    on_refusal: OnRefusal,
    processes: usize,
    /// Started with the first call.
    callee: OnceLock<Callee>,
    documentation: Option<Documentation>,
    /// The name in lower case, as SQL reads it without quotes, if it differs.
    aliases: Vec<String>,
}

/// What is called.
enum Callee {
    Function(Function),
    Pool(FunctionPool),
}

impl PluginFunction {
    pub(crate) fn new(host: Arc<Host>, declared: Declaration, on_refusal: OnRefusal, processes: usize) -> Self {
        let types = match (declared.arguments.is_empty(), &declared.variadic) {
            (true, None) => TypeSignature::Nullary,
            _ => TypeSignature::UserDefined,
        };
        let signature = Signature::new(types, declared.volatility);
        let documentation = (!declared.doc.is_empty()).then(|| documentation(&declared));
        let aliases = lower_case(&declared.name);
        Self { host, declared, signature, on_refusal, processes, callee: OnceLock::new(), documentation, aliases }
    }

    fn callee(&self) -> Result<&Callee> {
        if let Some(callee) = self.callee.get() {
            return Ok(callee);
        }
        let name = &self.declared.name;
        let opened = match self.declared.is_parallel && self.processes > 1 {
            true => Callee::Pool(self.host.function_pool(name).size(self.processes).open().map_err(external)?),
            false => {
                let function = self.host.function(name).map_err(external)?;
                let options = function.options().idempotent(self.declared.is_idempotent);
                Callee::Function(function.with_options(options))
            }
        };
        Ok(self.callee.get_or_init(|| opened))
    }

    /// Calls the function with columns, one for each argument.
    fn call(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        if batch.num_rows() == 0 {
            return Ok(new_null_array(&self.declared.result, 0));
        }
        // A call that may be made twice is made in columns first.
        let may_be_repeated = self.declared.is_idempotent || self.declared.volatility == Volatility::Immutable;
        if self.on_refusal == OnRefusal::Null && !may_be_repeated {
            return self.call_each(batch);
        }
        let called = match self.callee()? {
            Callee::Function(function) => call_columns(function, batch),
            Callee::Pool(pool) => call_columns(pool, batch),
        };
        match called {
            Ok(result) => self.checked(result, batch.num_rows()),
            Err(error) if error.kind() == ErrorKind::Function && self.on_refusal == OnRefusal::Null => {
                self.call_each(batch)
            }
            Err(error) => Err(external(error)),
        }
    }

    /// Calls the function as [`Self::call`] does, without blocking a thread.
    async fn call_async(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let pending = match self.callee()? {
            Callee::Function(function) => call_columns_async(function, batch),
            Callee::Pool(pool) => call_columns_async(pool, batch),
        };
        let result = pending.map_err(external)?.await.map_err(external)?;
        self.checked(result, batch.num_rows())
    }

    /// Calls the function row by row, where one that is refused costs no other.
    fn call_each(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let unreadable = |error: ekuiper_core::Error| exec_datafusion_err!("{}: {error}", self.declared.name);
        let columns: Vec<_> =
            batch.columns().iter().map(|column| Cells::new(column)).collect::<Result<_, _>>().map_err(unreadable)?;
        let rows = (0..batch.num_rows())
            .map(|row| columns.iter().map(|cells| cells.at(row).read::<Value>()).collect::<Result<Vec<_>, _>>());
        let rows: Vec<Vec<Value>> = rows.collect::<Result<_, _>>().map_err(|error| exec_datafusion_err!("{error}"))?;
        let outcomes = match self.callee()? {
            Callee::Function(function) => function.call_many::<Value, _>(rows),
            Callee::Pool(pool) => pool.call_many::<Value, _>(rows),
        };
        let outcomes = outcomes.map_err(|error| external(ekuiper_host::Error::from(error)))?;
        let mut results = ColumnWriter::new(None, outcomes.len());
        for outcome in &outcomes {
            match outcome {
                Ok(value) => results.push(value).map_err(|error| exec_datafusion_err!("{error}"))?,
                Err(_) => results.push_null(),
            }
        }
        self.checked(results.finish(), batch.num_rows())
    }

    /// Returns the results in the declared type.
    fn checked(&self, result: ArrayRef, rows: usize) -> Result<ArrayRef> {
        let name = &self.declared.name;
        if result.len() != rows {
            return Err(exec_datafusion_err!("the function {name} gave {} results for {rows} rows", result.len()));
        }
        if result.data_type() == &self.declared.result {
            return Ok(result);
        }
        let wanted = &self.declared.result;
        if !fits(result.data_type(), wanted) {
            return Err(exec_datafusion_err!(
                "the function {name} gave {}, but it is declared with the result {wanted}",
                result.data_type()
            ));
        }
        Ok(cast(&result, wanted)?)
    }

    /// The columns of a call, and the rows that are not NULL by themselves; all,
    /// if `None`.
    fn columns(&self, args: &ScalarFunctionArgs, rows: usize) -> Result<(RecordBatch, Option<BooleanArray>)> {
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let mut called: Option<BooleanArray> = None;
        for (at, array) in arrays.iter().enumerate() {
            let takes_null = self.declared.argument(at).is_none_or(|argument| argument.is_nullable);
            if takes_null || array.logical_null_count() == 0 {
                continue;
            }
            let present = compute::is_not_null(array)?;
            called = Some(match called {
                Some(called) => compute::and(&called, &present)?,
                None => present,
            });
        }
        let fields = arrays.iter().enumerate().map(|(at, array)| {
            let name = self.declared.argument(at).map(|argument| argument.name.as_str()).unwrap_or_default();
            let name = if name.is_empty() { format!("argument{}", at + 1) } else { name.to_owned() };
            Field::new(name, array.data_type().clone(), true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok((RecordBatch::try_new_with_options(schema, arrays, &options)?, called))
    }

    /// The number of rows for which the function is called: one where no
    /// argument is a column, if equal arguments have equal results.
    fn rows(&self, args: &ScalarFunctionArgs) -> usize {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let may_be_shared = self.declared.volatility != Volatility::Volatile;
        if is_constant && may_be_shared { 1 } else { args.number_rows }
    }

    fn value(&self, args: &ScalarFunctionArgs, result: ArrayRef) -> Result<ColumnarValue> {
        if self.rows(args) == 1 && args.number_rows != 1 {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// Puts the results of the rows that were called between those that are NULL.
fn spread(results: &ArrayRef, called: &BooleanArray) -> Result<ArrayRef> {
    let mut next = 0;
    let places: UInt64Array = called
        .iter()
        .map(|is_called| {
            is_called.unwrap_or(false).then(|| {
                next += 1;
                next - 1
            })
        })
        .collect();
    Ok(compute::take(results, &places, None)?)
}

fn documentation(declared: &Declaration) -> Documentation {
    use datafusion::logical_expr::DocSection;

    let section = DocSection { include: true, label: "Plugins", description: Some("Functions of eKuiper plugins") };
    let names = declared.arguments.iter().map(|argument| argument.name.clone()).collect::<Vec<_>>();
    let syntax = format!("{}({})", declared.name, names.join(", "));
    Documentation::builder(section, declared.doc.clone(), syntax).build()
}

impl ScalarUDFImpl for PluginFunction {
    fn name(&self) -> &str {
        &self.declared.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.declared.result.clone())
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        coerce(&self.declared, given)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (batch, called) = self.columns(&args, self.rows(&args))?;
        let result = match &called {
            None => self.call(&batch)?,
            Some(called) => spread(&self.call(&compute::filter_record_batch(&batch, called)?)?, called)?,
        };
        self.value(&args, result)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.documentation.as_ref()
    }
}

/// A function that is called without blocking a thread.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlowFunction {
    function: PluginFunction,
    /// Types in full: DataFusion does not ask an asynchronous function to coerce
    /// its arguments.
    signature: Signature,
}

impl SlowFunction {
    pub(crate) fn new(function: PluginFunction) -> Self {
        let declared = &function.declared;
        let types = match &declared.variadic {
            Some(_) => TypeSignature::VariadicAny,
            None => {
                let all = declared.arguments.len();
                TypeSignature::OneOf((declared.least()..=all).map(|count| of_count(declared, count)).collect())
            }
        };
        let signature = Signature::new(types, declared.volatility);
        Self { function, signature }
    }
}

/// The signature of a call with so many arguments.
fn of_count(declared: &Declaration, count: usize) -> TypeSignature {
    let types = declared.arguments[..count].iter().map(|argument| argument.data_type.clone());
    match types.collect::<Option<Vec<_>>>() {
        _ if count == 0 => TypeSignature::Nullary,
        Some(types) => TypeSignature::Exact(types),
        None => TypeSignature::Any(count),
    }
}

impl ScalarUDFImpl for SlowFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        self.function.return_type(given)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.function.invoke_with_args(args)
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for SlowFunction {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let function = &self.function;
        if function.on_refusal == OnRefusal::Null {
            return function.invoke_with_args(args);
        }
        let (batch, called) = function.columns(&args, function.rows(&args))?;
        let result = match &called {
            None => function.call_async(&batch).await?,
            Some(called) => {
                let results = function.call_async(&compute::filter_record_batch(&batch, called)?).await?;
                spread(&results, called)?
            }
        };
        function.value(&args, result)
    }
}

/// The further name of a function whose own name SQL reads with quotes alone.
pub(crate) fn lower_case(name: &str) -> Vec<String> {
    let lower = name.to_lowercase();
    if lower == name { Vec::new() } else { vec![lower] }
}

/// The types to which the arguments are cast.
pub(crate) fn coerce(declared: &Declaration, given: &[DataType]) -> Result<Vec<DataType>> {
    let least = declared.least();
    let is_too_many = declared.variadic.is_none() && given.len() > declared.arguments.len();
    if given.len() < least || is_too_many {
        return plan_err!("the function {} takes {}, not {}", declared.name, declared.count(), given.len());
    }
    given.iter().enumerate().map(|(at, given)| coerced(declared, at, given)).collect()
}

fn coerced(declared: &Declaration, at: usize, given: &DataType) -> Result<DataType> {
    let Some(Argument { name, data_type, .. }) = declared.argument(at) else { return Ok(given.clone()) };
    match data_type {
        None => Ok(given.clone()),
        Some(wanted) if fits(given, wanted) => Ok(wanted.clone()),
        Some(wanted) => plan_err!(
            "argument {} ({name}) of the function {} is {wanted}, and cannot be {given}: write CAST(… AS …)",
            at + 1,
            declared.name
        ),
    }
}

impl fmt::Debug for PluginFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginFunction").field("declared", &self.declared).finish_non_exhaustive()
    }
}

impl PartialEq for PluginFunction {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.host, &other.host) && self.declared == other.declared && self.on_refusal == other.on_refusal
    }
}

impl Eq for PluginFunction {}

impl Hash for PluginFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.declared.hash(state);
    }
}
