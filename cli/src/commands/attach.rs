//! `attach`: what other commands do, on a plugin that the user starts.

use std::process::ExitCode;

use super::{call, run as pipeline, sink, source};
use crate::args::{Attach, Attached, Common};
use crate::attachment::Attachment;
use crate::error::{Error, Result};
use crate::project::BuildOptions;
use crate::session::Session;
use crate::test_server;

pub(super) fn run(common: &Common, attach: &Attach) -> Result<ExitCode> {
    let attachment = Attachment::new(&attach.name, attach.wait, common)?;
    let open = |attachment| Session::attach(common, attachment, &BuildOptions::default(), &[]);
    match (&attach.action, attach.serve) {
        (Some(Attached::Call(call)), None) => call::run(|| open(attachment), call),
        (Some(Attached::Source(source)), None) => source::run(|| open(attachment), source),
        (Some(Attached::Sink(sink)), None) => sink::run(|| open(attachment), sink),
        (Some(Attached::Run(run)), None) => pipeline::attached(common, run, attachment),
        (None, Some(address)) => {
            let session = Session::attach_later(common, attachment, &BuildOptions::default(), &[])?;
            test_server::run(&session, &attach.name, address)
        }
        (None, None) | (Some(_), Some(_)) => Err(Error::AttachedForNothing),
    }
}
