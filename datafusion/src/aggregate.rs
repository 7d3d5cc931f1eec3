//! A plugin's aggregate as one of SQL: it is called once for each group, with
//! the list of the group's values.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::{self, cast};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::exec_datafusion_err;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature};
use datafusion::scalar::ScalarValue;
use ekuiper_core::columns::{Cells, ColumnWriter};
use ekuiper_host::{Function, Host};
use serde_json::Value;

use crate::declaration::Declaration;
use crate::error::external;
use crate::function::{coerce, lower_case};
use crate::types::{fits, item};

/// A plugin's aggregate function.
pub(crate) struct PluginAggregate {
    host: Arc<Host>,
    declared: Declaration,
    signature: Signature,
    aliases: Vec<String>,
}

impl PluginAggregate {
    pub(crate) fn new(host: Arc<Host>, declared: Declaration) -> Self {
        let signature = Signature::user_defined(declared.volatility);
        let aliases = lower_case(&declared.name);
        Self { host, declared, signature, aliases }
    }
}

impl fmt::Debug for PluginAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginAggregate").field("declared", &self.declared).finish_non_exhaustive()
    }
}

impl PartialEq for PluginAggregate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.host, &other.host) && self.declared == other.declared
    }
}

impl Eq for PluginAggregate {}

impl Hash for PluginAggregate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.declared.hash(state);
    }
}

impl AggregateUDFImpl for PluginAggregate {
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

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let function = self.host.function(&self.declared.name).map_err(external)?;
        let types = args.exprs.iter().map(|expr| expr.data_type(args.schema)).collect::<Result<Vec<_>>>()?;
        let values = types.into_iter().map(Collected::new).collect();
        Ok(Box::new(Group { function, result: self.declared.result.clone(), values }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let field = |(at, input): (usize, &FieldRef)| {
            let name = format!("{}[values {at}]", args.name);
            Arc::new(Field::new(name, DataType::List(item(input.data_type().clone())), true))
        };
        Ok(args.input_fields.iter().enumerate().map(field).collect())
    }
}

/// The values of one argument in one group.
#[derive(Debug)]
struct Collected {
    data_type: DataType,
    parts: Vec<ArrayRef>,
}

impl Collected {
    fn new(data_type: DataType) -> Self {
        Self { data_type, parts: Vec::new() }
    }

    fn all(&self) -> Result<ArrayRef> {
        let parts: Vec<&dyn Array> = self.parts.iter().map(|part| &**part).collect();
        match &parts[..] {
            [] => Ok(datafusion::arrow::array::new_empty_array(&self.data_type)),
            parts => Ok(compute::concat(parts)?),
        }
    }

    /// Returns the values as the function reads them.
    fn values(&self) -> Result<Vec<Value>> {
        let all = self.all()?;
        let cells = Cells::new(&all).map_err(|error| exec_datafusion_err!("{error}"))?;
        let read = |row| cells.at(row).read::<Value>().map_err(|error| exec_datafusion_err!("{error}"));
        (0..all.len()).map(read).collect()
    }
}

/// A group.
struct Group {
    function: Function,
    result: DataType,
    values: Vec<Collected>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("function", &self.function.name()).field("values", &self.values).finish()
    }
}

impl Accumulator for Group {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for (collected, part) in self.values.iter_mut().zip(values) {
            collected.parts.push(part.clone());
        }
        Ok(())
    }

    /// A group without rows has no value.
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let lists = self.values.iter().map(Collected::values).collect::<Result<Vec<_>>>()?;
        if lists.iter().all(Vec::is_empty) {
            return ScalarValue::try_from(&self.result);
        }
        let value: Value = self.function.call(lists).map_err(external)?;
        let mut result = ColumnWriter::new(None, 1);
        result.push(&value).map_err(|error| exec_datafusion_err!("{error}"))?;
        let result = result.finish();
        if !fits(result.data_type(), &self.result) {
            let (name, given, wanted) = (self.function.name(), result.data_type(), &self.result);
            return Err(exec_datafusion_err!(
                "the aggregate {name} gave {given}, but it is declared with the result {wanted}"
            ));
        }
        ScalarValue::try_from_array(&cast(&result, &self.result)?, 0)
    }

    fn size(&self) -> usize {
        let parts = self.values.iter().flat_map(|collected| &collected.parts);
        size_of_val(self) + parts.map(|part| part.get_array_memory_size()).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let list = |collected: &Collected| Ok(SingleRowListArrayBuilder::new(collected.all()?).build_list_scalar());
        self.values.iter().map(list).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for (collected, lists) in self.values.iter_mut().zip(states) {
            for list in lists.as_list::<i32>().iter().flatten() {
                collected.parts.push(list);
            }
        }
        Ok(())
    }
}
