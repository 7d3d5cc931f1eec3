//! What is known of a function: by its plugin's description, or by who uses it.

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::Volatility;
use ekuiper_host::description::{FunctionDescription, Volatility as Described};

use crate::types::arrow_type;
use crate::{Error, Result};

/// The types of a function, and how it may be called.
///
/// A function whose plugin describes it needs none. One on an official SDK does,
/// or one whose description leaves a type open.
///
/// ```
/// use datafusion::arrow::datatypes::DataType;
/// use ekuiper_datafusion::Declaration;
///
/// let revert = Declaration::new("revert", [DataType::Utf8], DataType::Utf8);
/// # let _ = revert;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Declaration {
    pub(crate) name: String,
    pub(crate) doc: String,
    pub(crate) arguments: Vec<Argument>,
    /// What each further argument is, if any number of them may follow.
    pub(crate) variadic: Option<Argument>,
    pub(crate) result: DataType,
    pub(crate) is_aggregate: bool,
    pub(crate) is_parallel: bool,
    pub(crate) is_idempotent: bool,
    pub(crate) volatility: Volatility,
}

/// An argument of a function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Argument {
    pub(crate) name: String,
    /// `None`: values of any type.
    pub(crate) data_type: Option<DataType>,
    /// Whether the function itself takes NULL; otherwise its result is NULL, and
    /// it is not called.
    pub(crate) is_nullable: bool,
    pub(crate) is_optional: bool,
}

impl Declaration {
    /// A function with these arguments and this result. It takes no NULL, and is
    /// called as often as the query says: it is volatile.
    pub fn new(name: impl Into<String>, arguments: impl IntoIterator<Item = DataType>, result: DataType) -> Self {
        let argument = |data_type| Argument {
            name: String::new(),
            data_type: Some(data_type),
            is_nullable: false,
            is_optional: false,
        };
        Self {
            name: name.into(),
            doc: String::new(),
            arguments: arguments.into_iter().map(argument).collect(),
            variadic: None,
            result,
            is_aggregate: false,
            is_parallel: false,
            is_idempotent: false,
            volatility: Volatility::Volatile,
        }
    }

    /// Says that each argument is the list of a group's values.
    #[must_use]
    pub fn aggregate(mut self) -> Self {
        self.is_aggregate = true;
        self
    }

    /// Says that equal arguments have equal results, always or within a query.
    #[must_use]
    pub fn volatility(mut self, volatility: Volatility) -> Self {
        self.volatility = volatility;
        self
    }

    /// Reads a declaration such as `revert(string) string`, in the words of
    /// eKuiper's descriptions: `bool`, `int`, `float`, `string`, `bytes`,
    /// `list<…>`, each with `?` behind it if it may be NULL.
    ///
    /// # Errors
    /// [`Error::Plan`]: the text is no declaration, or a type has no column.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong =
            || Error::Plan(format!("{text:?} declares no function: write for example \"revert(string) string\""));
        let (name, rest) = text.split_once('(').ok_or_else(wrong)?;
        let (arguments, result) = rest.rsplit_once(')').ok_or_else(wrong)?;
        let name = name.trim();
        if name.is_empty() {
            return Err(wrong());
        }
        let arguments = arguments.split(',').map(str::trim).filter(|argument| !argument.is_empty());
        let arguments = arguments.map(|argument| column(name, argument)).collect::<Result<Vec<_>>>()?;
        let (result, _) = column(name, result.trim())?;
        let mut declared = Self::new(name, arguments.iter().map(|(of, _)| of.clone()), result);
        for (argument, (_, is_nullable)) in declared.arguments.iter_mut().zip(arguments) {
            argument.is_nullable = is_nullable;
        }
        Ok(declared)
    }

    /// What a plugin says of its function; `None` if its result has no one type.
    pub(crate) fn described(described: &FunctionDescription) -> Option<Self> {
        let argument = |field: &ekuiper_host::description::Field| {
            // An aggregate's argument is the list of the values.
            let data_type = match (&field.data_type, described.aggregate) {
                (ekuiper_host::description::DataType::List(of), true) => of,
                (other, _) => other,
            };
            Argument {
                name: field.name.clone(),
                data_type: arrow_type(data_type),
                is_nullable: data_type.is_nullable(),
                is_optional: field.optional,
            }
        };
        Some(Self {
            name: described.name.clone(),
            doc: described.doc.clone(),
            arguments: described.arguments.iter().map(argument).collect(),
            variadic: described.variadic.as_ref().map(argument),
            result: arrow_type(&described.result)?,
            is_aggregate: described.aggregate,
            is_parallel: described.parallel,
            is_idempotent: described.idempotent,
            volatility: match described.volatility {
                Some(Described::Immutable) => Volatility::Immutable,
                Some(Described::Stable) => Volatility::Stable,
                _ => Volatility::Volatile,
            },
        })
    }

    /// The argument at this place.
    pub(crate) fn argument(&self, at: usize) -> Option<&Argument> {
        self.arguments.get(at).or(self.variadic.as_ref())
    }

    /// The least number of arguments that a call must have.
    pub(crate) fn least(&self) -> usize {
        self.arguments.iter().filter(|argument| !argument.is_optional).count()
    }

    /// The number of arguments that a call must have, in words.
    pub(crate) fn count(&self) -> String {
        let (count, plural) = match (self.least(), self.arguments.len(), &self.variadic) {
            (least, _, Some(_)) => (format!("at least {least}"), least != 1),
            (least, most, None) if least == most => (most.to_string(), most != 1),
            (least, most, None) => (format!("{least} to {most}"), true),
        };
        format!("{count} argument{}", if plural { "s" } else { "" })
    }
}

/// A type in the words of descriptions, and whether it may be NULL.
fn column(function: &str, text: &str) -> Result<(DataType, bool)> {
    let described = serde_json::from_value::<ekuiper_host::description::DataType>(serde_json::json!({ "type": text }));
    let described = described.unwrap_or_default();
    let known = arrow_type(&described).ok_or_else(|| {
        Error::Plan(format!(
            "the function {function} is declared with the type {text:?}: there are bool, int, float, string, bytes and \
             list<…>, each with ? if it may be NULL"
        ))
    })?;
    Ok((known, described.is_nullable()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_is_read_or_refused_in_words() {
        let read = Declaration::parse("repeat( string? ,int) list<float>").unwrap();
        assert_eq!((read.name.as_str(), read.arguments.len(), read.count().as_str()), ("repeat", 2, "2 arguments"));
        assert!(read.arguments[0].is_nullable && !read.arguments[1].is_nullable);
        assert_eq!(Declaration::parse("now() int").unwrap().count(), "0 arguments");
        for wrong in ["revert", "(string) int", "revert(text) string", "revert(string)", "revert(string) any"] {
            let error = Declaration::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("declare"), "{error}");
        }
    }
}
