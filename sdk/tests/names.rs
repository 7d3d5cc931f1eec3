//! The types of the public signatures, each named as an author would name it.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

use ekuiper_sdk::raw::{
    Arg, Args, BatchReply, BoxedFunction, ByRaw, ByTrait, Format, Mark, Raw, RawFunction, Reply, Rows, WithContext,
};
use ekuiper_sdk::{
    Address, CodecError, Error, Function, FunctionContext, IntoFunction, MessageError, Result, TransportError, Value,
    testing,
};

fn message(error: Error) -> Option<MessageError> {
    if let Error::Message(error) = error { Some(error) } else { None }
}

fn transport(error: Error) -> Option<TransportError> {
    if let Error::Transport { source, .. } = error { Some(source) } else { None }
}

fn address(error: TransportError) -> Option<Address> {
    match error {
        TransportError::AddressInUse(address)
        | TransportError::NotASocket(address)
        | TransportError::Io { address, .. } => Some(address),
        _ => None,
    }
}

#[test]
fn the_parts_of_errors() {
    let unknown = || MessageError::UnknownCodec { name: "x".into() };
    assert_eq!(message(unknown().into()).unwrap().to_string(), unknown().to_string());
    let at = Address::new("/tmp/x.ipc").unwrap();
    let error = Error::Transport { what: "x".into(), source: TransportError::AddressInUse(at.clone()) };
    assert_eq!(transport(error).and_then(address), Some(at));
}

/// Returns the name of the codec of its calls, and of the first argument.
struct Codec;

impl Codec {
    fn first(arg: &Arg<'_>) -> Result<String, CodecError> {
        arg.read()
    }

    fn format(args: &Args<'_>) -> Format {
        args.format()
    }

    fn mark(reply: &BatchReply<'_>) -> Mark {
        reply.mark()
    }
}

impl RawFunction for Codec {
    fn validate(&mut self, _: &Args<'_>) -> Result<()> {
        Ok(())
    }

    fn exec(&mut self, args: &mut Args<'_>, _: &FunctionContext, reply: &mut Reply<'_, '_>) -> Result<()> {
        let all = args.all()?;
        let first = Self::first(&all[0])?;
        reply.put(&(format!("{:?}", Self::format(args)), first))
    }

    fn exec_batch(&mut self, rows: &mut Rows<'_>, _: &FunctionContext, reply: &mut BatchReply<'_>) -> Result<()> {
        while let Some(mut row) = rows.next_row()? {
            let mark = Self::mark(reply);
            if let Err(error) = reply.result(&row.read::<Value>()?) {
                reply.reset(mark);
                reply.error(error.to_string());
            }
            rows.go_on(row)?;
        }
        Ok(())
    }

    fn is_aggregate(&self) -> bool {
        false
    }
}

struct Echo;

impl Function for Echo {
    fn exec(&mut self, args: &[Value], _: &FunctionContext) -> Result<Value> {
        Ok(args[0].clone())
    }
}

/// Erases a function's type; `Marker` is written down by the caller.
fn erased<Marker>(function: impl IntoFunction<Marker>) -> BoxedFunction {
    function.into_function(false)
}

#[test]
fn functions_by_their_markers() {
    let _: [BoxedFunction; 4] = [
        erased::<ByRaw>(Raw(Codec)),
        erased::<ByTrait>(Echo),
        erased::<fn(i64) -> i64>(|n: i64| n + 1),
        erased::<WithContext<fn(i64) -> i64>>(|n: i64, _: &FunctionContext| n + 1),
    ];
    assert_eq!(testing::function(Raw(Codec)).call(("x",)), Ok(("Json".to_owned(), "x".to_owned())));
}
