//! Requests to functions, and their replies.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::args::{ArgWriter, Args, Arguments};
use super::envelope::{keys, push_key, push_map};
use crate::codec::{Format, Reader};
use crate::{Error, Result};

/// The kind of a function request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallKind {
    /// Asks whether the arguments are acceptable. The engine passes nodes of
    /// its syntax tree, not values: only their number is meaningful.
    Validate,
    /// Asks for a function's result.
    Exec,
    /// Asks whether the function takes all rows of a window at once.
    IsAggregate,
    /// Asks for the results of many rows: see
    /// [`BatchWriter`](super::BatchWriter). Sent only to a plugin that has
    /// offered it.
    Batch,
    /// Asks for the results of many rows, which are columns before the request:
    /// see [`end_columns_call`](super::end_columns_call). Sent only to a plugin
    /// that has offered it.
    Columns,
}

/// The request in a message for people: "call of function f".
impl fmt::Display for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Validate => "argument check",
            Self::Exec => "call",
            Self::IsAggregate => "aggregate query",
            Self::Batch => "batch of calls",
            Self::Columns => "call with columns",
        })
    }
}

impl CallKind {
    fn name(self) -> &'static str {
        match self {
            Self::Validate => "Validate",
            Self::Exec => "Exec",
            Self::IsAggregate => "IsAggregate",
            Self::Batch => "Batch",
            Self::Columns => "Columns",
        }
    }
}

/// The call site of a function in a rule.
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
    /// The call's position within the rule.
    #[serde(default)]
    pub func_id: i64,
}

/// A [`FunctionMeta`] in encoded form: written once, sent with many requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedMeta {
    /// The context as a JSON string that holds an object.
    json: Vec<u8>,
    /// The context as a MessagePack map.
    messagepack: Vec<u8>,
}

impl EncodedMeta {
    pub(super) fn of(&self, format: Format) -> &[u8] {
        match format {
            Format::Json => &self.json,
            Format::MessagePack => &self.messagepack,
        }
    }
}

impl From<&FunctionMeta> for EncodedMeta {
    fn from(meta: &FunctionMeta) -> Self {
        let text = serde_json::json!({
            "ruleId": meta.rule_id, "opId": meta.op_id, "instanceId": meta.instance_id, "funcId": meta.func_id,
        });
        let mut encoded = Self { json: Vec::new(), messagepack: Vec::new() };
        // Encoding text and whole numbers cannot fail.
        let _ = Format::MessagePack.encode(&mut encoded.messagepack, &text);
        let text = serde_json::to_string(meta).unwrap_or_else(|_| text.to_string());
        let _ = Format::Json.encode(&mut encoded.json, &text);
        encoded
    }
}

/// A request as a plugin receives it; its arguments are decoded on demand.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The kind of request.
    pub kind: CallKind,
    /// The arguments, or a batch's rows, each an array of arguments.
    pub args: Args<'a>,
    /// A batch's number, which its reply repeats, or the number of the first row
    /// of columns among the caller's; 0 for other requests.
    pub id: u64,
    context: Context<'a>,
}

/// The beginning of an `Exec` in JSON, as engines and this project write it.
const EXEC_HEAD: &[u8] = b"{\"func\":\"Exec\",\"arg\":";

/// The position of a request's context.
#[derive(Clone, Debug)]
enum Context<'a> {
    /// No context: only an `Exec` and a batch have one.
    Absent,
    /// The last argument, as text.
    Last,
    /// A field beside the arguments.
    Beside(&'a [u8]),
}

impl<'a> Call<'a> {
    /// Decodes a request: an `Exec` in JSON up to its arguments, any other
    /// request as a whole. The bytes behind the arguments are validated
    /// together with the last argument.
    ///
    /// # Errors
    /// [`Error::Message`] when the bytes have another form.
    pub fn decode(format: Format, bytes: &'a [u8]) -> Result<Self> {
        match format {
            Format::Json => match bytes.strip_prefix(EXEC_HEAD) {
                Some(rest) if rest.first() == Some(&b'[') => Args::in_request(rest).map(Self::exec),
                _ => Self::decode_json(bytes),
            },
            Format::MessagePack => Self::decode_messagepack(bytes),
        }
        .map_err(|source| Error::Message { what: "the function's request", source })
    }

    fn exec(args: Args<'a>) -> Self {
        Self { kind: CallKind::Exec, args, id: 0, context: Context::Last }
    }

    fn decode_json(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            func: CallKind,
            #[serde(default, borrow)]
            arg: Option<&'a RawValue>,
            #[serde(default, alias = "first")]
            id: u64,
            #[serde(default, borrow)]
            meta: Option<&'a RawValue>,
        }
        let Wire { func, arg, id, meta } = crate::json::object(bytes)?;
        let arg = arg.map_or(&b"[]"[..], |arg| arg.get().as_bytes());
        let context = match (func, meta) {
            (CallKind::Exec, _) => Context::Last,
            (CallKind::Batch | CallKind::Columns, Some(meta)) => Context::Beside(meta.get().as_bytes()),
            _ => Context::Absent,
        };
        let args = Args::new(Format::Json, arg, matches!(context, Context::Last))?;
        Ok(Self { kind: func, args, id, context })
    }

    fn decode_messagepack(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        let (mut func, mut id, mut arg, mut meta) = (None, 0, &[0x90][..], None);
        keys(bytes, |key, reader| {
            match key {
                "func" => func = Some(reader.value()?),
                "id" | "first" => id = reader.value()?,
                "arg" => arg = reader.raw()?,
                "meta" => meta = Some(reader.raw()?),
                _ => drop(reader.raw()?),
            }
            Ok(())
        })?;
        let kind = func.ok_or_else(|| serde::de::Error::missing_field("func"))?;
        let context = meta.map_or(Context::Absent, Context::Beside);
        Ok(Self { kind, args: Args::new(Format::MessagePack, arg, false)?, id, context })
    }

    /// The request's call site; empty if the request has none.
    ///
    /// # Errors
    /// [`Error::MissingContext`] when the last argument of an `Exec` is not its
    /// context; [`Error::Message`] when the arguments are malformed.
    pub fn meta(&self) -> Result<FunctionMeta> {
        let text = match self.context {
            Context::Absent => return Ok(FunctionMeta::default()),
            Context::Last => {
                let wrong = |source| Error::Message { what: "the function's request", source };
                self.args.context().map_err(wrong)?.ok_or(Error::MissingContext)?
            }
            Context::Beside(meta) if self.args.format() == Format::MessagePack => {
                return Format::MessagePack.decode(meta).map_err(|_| Error::MissingContext);
            }
            Context::Beside(meta) => meta,
        };
        serde_json::from_slice::<String>(text)
            .and_then(|text| crate::json::object(text.as_bytes()))
            .map_err(|_| Error::MissingContext)
    }
}

/// Encodes a request; an `Exec` requires `meta`.
///
/// # Errors
/// [`Error::Encode`] when an argument cannot be encoded; `buffer` then keeps
/// its former length.
pub fn encode_call(
    format: Format,
    buffer: &mut Vec<u8>,
    kind: CallKind,
    args: &(impl Arguments + ?Sized),
    meta: Option<&EncodedMeta>,
) -> Result<()> {
    let start = buffer.len();
    let written = match format {
        Format::Json => call_json(buffer, kind, args, meta),
        Format::MessagePack => call_messagepack(buffer, kind, args, meta),
    };
    written.map_err(|source| {
        buffer.truncate(start);
        Error::Encode { what: "the function's arguments", source }
    })
}

fn call_json(
    buffer: &mut Vec<u8>,
    kind: CallKind,
    args: &(impl Arguments + ?Sized),
    meta: Option<&EncodedMeta>,
) -> Result<(), serde_json::Error> {
    buffer.extend_from_slice(b"{\"func\":\"");
    buffer.extend_from_slice(kind.name().as_bytes());
    buffer.extend_from_slice(b"\",\"arg\":");
    if kind == CallKind::IsAggregate {
        buffer.extend_from_slice(b"null}");
        return Ok(());
    }
    buffer.push(b'[');
    args.write(&mut ArgWriter::new(Format::Json, buffer))?;
    if let Some(meta) = meta {
        if args.count() > 0 {
            buffer.push(b',');
        }
        buffer.extend_from_slice(meta.of(Format::Json));
    }
    buffer.extend_from_slice(b"]}");
    Ok(())
}

fn call_messagepack(
    buffer: &mut Vec<u8>,
    kind: CallKind,
    args: &(impl Arguments + ?Sized),
    meta: Option<&EncodedMeta>,
) -> Result<(), serde_json::Error> {
    push_map(buffer, 2 + u8::from(meta.is_some()));
    push_key(buffer, "func");
    push_key(buffer, kind.name());
    if let Some(meta) = meta {
        push_key(buffer, "meta");
        buffer.extend_from_slice(meta.of(Format::MessagePack));
    }
    push_key(buffer, "arg");
    super::envelope::push_array(buffer, args.count());
    args.write(&mut ArgWriter::new(Format::MessagePack, buffer))
}

/// The outcome of a function call: its result, or its error's text.
pub type Outcome<R> = std::result::Result<R, String>;

/// The beginning of a reply with a result.
fn result_head(format: Format) -> &'static [u8] {
    match format {
        Format::Json => b"{\"state\":true,\"result\":",
        Format::MessagePack => b"\x82\xa5state\xc3\xa6result",
    }
}

/// The beginning of a reply with an error.
fn error_head(format: Format) -> &'static [u8] {
    match format {
        Format::Json => b"{\"state\":false,\"result\":",
        Format::MessagePack => b"\x82\xa5state\xc2\xa6result",
    }
}

/// The end of a reply of either kind.
fn tail(format: Format) -> &'static [u8] {
    match format {
        Format::Json => b"}",
        Format::MessagePack => b"",
    }
}

/// Decodes a reply, `{"state":bool,"result":any}`: if `state` is false, the
/// result is an error's text.
///
/// # Errors
/// [`Error::Message`] when the bytes have another form, or the result has
/// another type.
pub fn decode_reply<R: DeserializeOwned>(format: Format, bytes: &[u8]) -> Result<Outcome<R>> {
    // The form that our own plugins write; errors in it are found below.
    if let Some(rest) = bytes.strip_prefix(result_head(format)) {
        let mut reader = Reader::new(format, rest);
        if let Ok(result) = reader.value()
            && reader.rest() == tail(format)
        {
            return Ok(Ok(result));
        }
    }
    let wrong = |source| Error::Message { what: "the function's reply", source };
    let wrong_result = |source| Error::Message { what: "the function's result", source };
    let (state, result) = match format {
        Format::Json => reply_json(bytes).map_err(wrong)?,
        Format::MessagePack => reply_messagepack(bytes).map_err(wrong)?,
    };
    if state {
        return format.decode(result).map(Ok).map_err(wrong_result);
    }
    Ok(Err(format.decode::<String>(result).unwrap_or_else(|_| String::from_utf8_lossy(result).into_owned())))
}

fn reply_json(bytes: &[u8]) -> Result<(bool, &[u8]), serde_json::Error> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        state: bool,
        #[serde(default, borrow)]
        result: Option<&'a RawValue>,
    }
    let Wire { state, result } = crate::json::object(bytes)?;
    Ok((state, result.map_or("null", RawValue::get).as_bytes()))
}

fn reply_messagepack(bytes: &[u8]) -> Result<(bool, &[u8]), serde_json::Error> {
    let (mut state, mut result) = (None, &[0xc0][..]);
    keys(bytes, |key, reader| {
        match key {
            "state" => state = Some(reader.value()?),
            "result" => result = reader.raw()?,
            _ => drop(reader.raw()?),
        }
        Ok(())
    })?;
    Ok((state.ok_or_else(|| serde::de::Error::missing_field("state"))?, result))
}

/// Encodes a result.
///
/// # Errors
/// [`Error::Encode`] when the result cannot be encoded, for example NaN or an
/// infinity; `buffer` then keeps its former length.
#[inline]
pub fn encode_result(format: Format, buffer: &mut Vec<u8>, result: &(impl Serialize + ?Sized)) -> Result<()> {
    let start = buffer.len();
    buffer.extend_from_slice(result_head(format));
    match format.encode(buffer, result) {
        Ok(()) => {
            buffer.extend_from_slice(tail(format));
            Ok(())
        }
        Err(source) => {
            buffer.truncate(start);
            Err(Error::Encode { what: "the function's result", source })
        }
    }
}

/// Encodes an error as a function's reply.
pub fn encode_error(format: Format, buffer: &mut Vec<u8>, text: &str) {
    buffer.extend_from_slice(error_head(format));
    // Encoding text cannot fail.
    let _ = format.encode(buffer, text);
    buffer.extend_from_slice(tail(format));
}

#[cfg(test)]
mod tests;
