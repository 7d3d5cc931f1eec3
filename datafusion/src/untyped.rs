//! A function that no query can use, and the reason.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// A function without known types: a query that uses it fails with the reason.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct UntypedFunction {
    name: String,
    reason: String,
    signature: Signature,
}

impl UntypedFunction {
    pub(crate) fn new(name: String, reason: String) -> Self {
        Self { name, reason, signature: Signature::variadic_any(Volatility::Volatile) }
    }
}

impl ScalarUDFImpl for UntypedFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("{}", self.reason)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        plan_err!("{}", self.reason)
    }
}
