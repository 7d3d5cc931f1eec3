//! Sample arguments and rows.

use ekuiper_core::description::{DataType, Field, FunctionDescription};
use serde_json::{Value, json};

/// Arguments that a function's description fits: those of its example, or some
/// of the right types.
pub(super) fn arguments(function: &FunctionDescription) -> Vec<Value> {
    let from_example = (!function.aggregate).then(|| literals(&function.example)).flatten();
    let least = function.arguments.iter().filter(|argument| !argument.optional).count();
    if let Some(literals) = from_example.filter(|literals| literals.len() >= least) {
        return literals;
    }
    let variadic = function.variadic.iter().filter(|_| function.arguments.is_empty());
    function.arguments.iter().filter(|argument| !argument.optional).chain(variadic).map(of_field).collect()
}

/// Arguments that do not fit a description, made of such that do: NULL and a
/// value of another type in each place, one more and one fewer.
pub(super) fn misfits(fitting: &[Value]) -> Vec<Vec<Value>> {
    let mut found = Vec::new();
    for place in 0..fitting.len() {
        let other = if fitting[place].is_string() { json!(7) } else { json!("sample") };
        for value in [Value::Null, other] {
            let mut arguments = fitting.to_vec();
            arguments[place] = value;
            found.push(arguments);
        }
    }
    found.push([fitting, &[json!("sample")]].concat());
    found.extend(fitting.split_last().map(|(_, fewer)| fewer.to_vec()));
    found
}

/// Whether a description says nothing of the arguments.
pub(super) fn is_unknown(function: &FunctionDescription) -> bool {
    function.arguments.is_empty()
        && function.variadic.as_ref().is_some_and(|further| further.data_type == DataType::Any)
        && function.example.is_empty()
}

fn of_field(field: &Field) -> Value {
    if let Some(value) = field.values.first().or(field.default.as_ref()) {
        return value.clone();
    }
    of_type(&field.data_type)
}

fn of_type(data_type: &DataType) -> Value {
    match data_type.without_null() {
        DataType::Bool => json!(true),
        DataType::Int => json!(2),
        DataType::Float => json!(1.5),
        DataType::Bytes => json!("c2FtcGxl"),
        DataType::Datetime => json!("2024-01-02T03:04:05Z"),
        DataType::List(of) => json!([of_type(of), of_type(of)]),
        DataType::Struct(fields) => {
            let needed = fields.iter().filter(|field| !field.optional);
            needed.map(|field| (field.name.clone(), of_field(field))).collect::<serde_json::Map<_, _>>().into()
        }
        _ => json!("sample"),
    }
}

/// The arguments of a call such as `repeat('ab', 2)`, if they are literals only.
fn literals(example: &str) -> Option<Vec<Value>> {
    let (_, rest) = example.split_once('(')?;
    let mut rest = rest.trim().strip_suffix(')')?.trim();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let after = match rest.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                let (text, after) = rest[1..].split_once(quote)?;
                found.push(text.into());
                after
            }
            _ => {
                let (word, _) = rest.split_once(',').unwrap_or((rest, ""));
                let value: Value = serde_json::from_str(word.trim()).ok()?;
                found.push(Some(value).filter(|value| value.is_number() || value.is_boolean())?);
                &rest[word.len()..]
            }
        };
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => Some(next.trim_start()).filter(|next| !next.is_empty())?,
            None => Some(after).filter(|after| after.is_empty())?,
        };
    }
    Some(found)
}

/// The expressions in whose form eKuiper asks a function whether it accepts
/// some arguments.
pub(super) fn expressions(arguments: &[Value]) -> Vec<Value> {
    arguments.iter().map(|value| json!({ "Val": value })).collect()
}

/// The rows for a sink.
pub(super) fn rows() -> [Value; 2] {
    [json!({ "name": "hello", "count": 5 }), json!({ "name": "world", "count": 10 })]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_s_literals_are_arguments() {
        assert_eq!(literals("repeat('ab', 2)"), Some(vec![json!("ab"), json!(2)]));
        assert_eq!(literals("f(\"a,b)\", -1.5,true)"), Some(vec![json!("a,b)"), json!(-1.5), json!(true)]));
        assert_eq!(literals("now()"), Some(vec![]));
        for none in ["", "f", "f(x)", "f('a', x)", "f('a' 'b')", "f('a',)", "f('a) + 1", "f([1])"] {
            assert_eq!(literals(none), None, "{none}");
        }
    }

    #[test]
    fn misfits_are_wrong_in_one_place_or_in_number() {
        let found = misfits(&[json!("a"), json!(1)]);
        let wanted = json!([[null, 1], [7, 1], ["a", null], ["a", "sample"], ["a", 1, "sample"], ["a"]]);
        assert_eq!(json!(found), wanted);
        assert_eq!(json!(misfits(&[])), json!([["sample"]]));
    }

    #[test]
    fn arguments_have_the_described_types() {
        let field = |name: &str, data_type| Field::new(name, data_type);
        let point = DataType::of_fields([field("x", DataType::Float), field("y", DataType::Int).optional()]);
        let function = FunctionDescription::new(
            [
                field("a", DataType::list(DataType::Bool)),
                field("b", point.nullable()),
                field("c", DataType::String).one_of(["red"]),
                field("d", DataType::Int).optional(),
            ],
            DataType::Any,
        );
        assert_eq!(arguments(&function), [json!([true, true]), json!({ "x": 1.5 }), json!("red")]);
        assert!(is_unknown(&FunctionDescription::unknown()) && !is_unknown(&function));
    }
}
