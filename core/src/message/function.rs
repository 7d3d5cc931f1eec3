//! A function's channel: requests and replies.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::finite::Finite;
use crate::{Error, Result};

/// What is asked of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallKind {
    /// Are these arguments acceptable? The engine passes its syntax tree's
    /// nodes, not values: only their number says anything.
    Validate,
    /// Compute.
    Exec,
    /// Does it take all rows of a window at once?
    IsAggregate,
}

/// For which call site of which rule a function is executed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionMeta {
    /// The rule.
    #[serde(default)]
    pub rule_id: String,
    /// The operator within the rule.
    #[serde(default)]
    pub op_id: String,
    /// The operator's instance.
    #[serde(default)]
    pub instance_id: i64,
    /// The call's place within the rule.
    #[serde(default)]
    pub func_id: i64,
}

/// A request as a plugin receives it; its arguments are still JSON text.
#[derive(Debug)]
pub struct Call<'a> {
    /// What is asked.
    pub kind: CallKind,
    /// The arguments, without the context.
    pub args: Vec<&'a RawValue>,
    /// The context of an `Exec`; empty for the others.
    pub meta: FunctionMeta,
}

impl<'a> Call<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Error::Message`] when it has another form, [`Error::MissingContext`]
    /// when an `Exec`'s last argument is not its context.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            func: CallKind,
            #[serde(default, borrow)]
            arg: Option<Vec<&'a RawValue>>,
        }
        let wire: Wire<'a> =
            crate::json::object(bytes).map_err(|source| Error::Message { what: "the function's request", source })?;
        let mut args = wire.arg.unwrap_or_default();
        let mut meta = FunctionMeta::default();
        if wire.func == CallKind::Exec {
            let text = args.pop().ok_or(Error::MissingContext)?;
            meta = serde_json::from_str::<String>(text.get())
                .and_then(|text| crate::json::object(text.as_bytes()))
                .map_err(|_| Error::MissingContext)?;
        }
        Ok(Self { kind: wire.func, args, meta })
    }
}

/// Writes a request. `args` is a tuple or list of arguments; `meta` is needed
/// by `Exec` and stands last among them.
///
/// # Errors
/// [`Error::Encode`] when an argument cannot be written as JSON.
pub fn encode_call(
    buffer: &mut Vec<u8>,
    kind: CallKind,
    args: &[&dyn ErasedSerialize],
    meta: Option<&FunctionMeta>,
) -> Result<()> {
    let wrong = |source| Error::Encode { what: "the function's arguments", source };
    buffer.extend_from_slice(b"{\"func\":\"");
    buffer.extend_from_slice(match kind {
        CallKind::Validate => b"Validate",
        CallKind::Exec => b"Exec",
        CallKind::IsAggregate => b"IsAggregate",
    });
    buffer.extend_from_slice(b"\",\"arg\":");
    if kind == CallKind::IsAggregate {
        buffer.extend_from_slice(b"null}");
        return Ok(());
    }
    buffer.push(b'[');
    for (position, arg) in args.iter().enumerate() {
        if position > 0 {
            buffer.push(b',');
        }
        arg.write_json(buffer).map_err(wrong)?;
    }
    if let Some(meta) = meta {
        if !args.is_empty() {
            buffer.push(b',');
        }
        let text = serde_json::to_string(meta).map_err(wrong)?;
        serde_json::to_writer(&mut *buffer, &text).map_err(wrong)?;
    }
    buffer.extend_from_slice(b"]}");
    Ok(())
}

/// A value that can be written as JSON, behind a pointer: lets the arguments
/// of one call have different types.
pub trait ErasedSerialize {
    /// Appends the value to `buffer`.
    ///
    /// # Errors
    /// The serialiser's.
    fn write_json(&self, buffer: &mut Vec<u8>) -> Result<(), serde_json::Error>;
}

impl<T: Serialize + ?Sized> ErasedSerialize for T {
    fn write_json(&self, buffer: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(buffer, &Finite(self))
    }
}

/// What a function answered: its result, or its error's text.
pub type Outcome<R> = std::result::Result<R, String>;

/// Reads a reply, `{"state":bool,"result":any}`: `state` false makes the
/// result an error's text.
///
/// # Errors
/// [`Error::Message`] when it has another form, or the result another type.
pub fn decode_reply<R: DeserializeOwned>(bytes: &[u8]) -> Result<Outcome<R>> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        state: bool,
        #[serde(default, borrow)]
        result: Option<&'a RawValue>,
    }
    let wrong = |source| Error::Message { what: "the function's reply", source };
    let wire: Wire<'_> = crate::json::object(bytes).map_err(wrong)?;
    let result = wire.result.map_or("null", RawValue::get);
    if wire.state {
        return serde_json::from_str(result)
            .map(Ok)
            .map_err(|source| Error::Message { what: "the function's result", source });
    }
    Ok(Err(serde_json::from_str::<String>(result).unwrap_or_else(|_| result.to_owned())))
}

/// Writes a result.
///
/// # Errors
/// [`Error::Encode`] when it cannot be written as JSON, NaN and the infinities
/// among such; `buffer` is then as long as it was.
pub fn encode_result(buffer: &mut Vec<u8>, result: &(impl Serialize + ?Sized)) -> Result<()> {
    let start = buffer.len();
    buffer.extend_from_slice(b"{\"state\":true,\"result\":");
    match serde_json::to_writer(&mut *buffer, &Finite(result)) {
        Ok(()) => {
            buffer.push(b'}');
            Ok(())
        }
        Err(source) => {
            buffer.truncate(start);
            Err(Error::Encode { what: "the function's result", source })
        }
    }
}

/// Writes an error as a function's reply.
pub fn encode_error(buffer: &mut Vec<u8>, text: &str) {
    buffer.extend_from_slice(b"{\"state\":false,\"result\":");
    buffer.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
    buffer.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXEC: &[u8] =
        br#"{"func":"Exec","arg":["a",[1,2],"{\"ruleId\":\"r\",\"opId\":\"o\",\"instanceId\":1,\"funcId\":3}"]}"#;

    #[test]
    fn an_engines_request_is_read() {
        let call = Call::decode(EXEC).unwrap();
        assert_eq!(call.kind, CallKind::Exec);
        assert_eq!(call.args.iter().map(|arg| arg.get()).collect::<Vec<_>>(), ["\"a\"", "[1,2]"]);
        assert_eq!(call.meta, FunctionMeta { rule_id: "r".into(), op_id: "o".into(), instance_id: 1, func_id: 3 });
        let call = Call::decode(br#"{"func":"IsAggregate","arg":null}"#).unwrap();
        assert_eq!((call.kind, call.args.len()), (CallKind::IsAggregate, 0));
        let call = Call::decode(br#"{"func":"Validate","arg":[{"node":1},{"node":2}]}"#).unwrap();
        assert_eq!((call.kind, call.args.len()), (CallKind::Validate, 2));
    }

    #[test]
    fn our_request_is_the_engines() {
        let meta = FunctionMeta { rule_id: "r".into(), op_id: "o".into(), instance_id: 1, func_id: 3 };
        let mut buffer = Vec::new();
        encode_call(&mut buffer, CallKind::Exec, &[&"a", &[1, 2]], Some(&meta)).unwrap();
        assert_eq!(buffer, EXEC);
        buffer.clear();
        encode_call(&mut buffer, CallKind::IsAggregate, &[], None).unwrap();
        assert_eq!(buffer, br#"{"func":"IsAggregate","arg":null}"#);
        buffer.clear();
        encode_call(&mut buffer, CallKind::Exec, &[], Some(&meta)).unwrap();
        assert!(Call::decode(&buffer).unwrap().args.is_empty());
    }

    #[test]
    fn a_number_keeps_its_last_bit() {
        let number = 1_844_674_407.309_151_4;
        let mut buffer = Vec::new();
        encode_result(&mut buffer, &number).unwrap();
        assert_eq!(decode_reply::<f64>(&buffer).unwrap(), Ok(number));
        assert_eq!(decode_reply::<serde_json::Value>(&buffer).unwrap(), Ok(number.into()));
    }

    #[test]
    fn an_exec_without_its_context_is_refused() {
        for bytes in [
            &br#"{"func":"Exec","arg":[]}"#[..],
            br#"{"func":"Exec","arg":null}"#,
            br#"{"func":"Exec","arg":["no json"]}"#,
        ] {
            assert!(matches!(Call::decode(bytes), Err(Error::MissingContext)));
        }
        assert!(Call::decode(br#"{"func":"Destroy","arg":[]}"#).is_err());
        assert!(Call::decode(br#"["Validate",[1]]"#).is_err());
    }

    #[test]
    fn replies_survive() {
        let mut buffer = Vec::new();
        encode_result(&mut buffer, "olleh").unwrap();
        assert_eq!(buffer, br#"{"state":true,"result":"olleh"}"#);
        assert_eq!(decode_reply::<String>(&buffer).unwrap(), Ok("olleh".into()));
        assert!(decode_reply::<u8>(&buffer).is_err());
        buffer.clear();
        encode_error(&mut buffer, "no\n\"way\"");
        assert_eq!(decode_reply::<String>(&buffer).unwrap(), Err("no\n\"way\"".into()));
        assert_eq!(decode_reply::<()>(br#"{"state":true}"#).unwrap(), Ok(()));
        assert_eq!(decode_reply::<()>(br#"{"state":false,"result":{}}"#).unwrap(), Err("{}".into()));
        assert!(decode_reply::<()>(b"handshake").is_err());
        assert!(decode_reply::<u8>(b"[true,5]").is_err());
    }

    #[test]
    fn fault_17_nan_is_an_error_in_a_result_and_in_an_argument() {
        let mut buffer = b"before".to_vec();
        let error = encode_result(&mut buffer, &f64::NAN).unwrap_err().to_string();
        assert!(error.contains("NaN"), "{error}");
        assert_eq!(buffer, b"before");
        assert!(encode_call(&mut buffer, CallKind::Exec, &[&f64::INFINITY], None).is_err());
    }
}
