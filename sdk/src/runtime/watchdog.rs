//! Notices that the plugin is to end: a signal, or its parent's death.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ekuiper_core::transport::Request;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, getppid, pidfd_open};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Result;

/// How long the orderly end may take, before the process simply ends.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Closes the control channel when the plugin is to end, which ends the rest.
pub(super) fn watch(control: Arc<dyn Request>) -> Result<()> {
    // A second signal ends the process at once.
    let (receiver, sender) = UnixStream::pair()?;
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, again.clone())?;
        signal_hook::flag::register(signal, again.clone())?;
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    // The parent as it is now. Its number says nothing later: it may be
    // another's by then, and an orphan's parent need not be process 1.
    let parent = getppid().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok().map(|fd| (pid, fd)));
    let parent = parent.filter(|(pid, _)| getppid() == Some(*pid)).map(|(_, fd)| fd);
    std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        let mut fds = vec![PollFd::new(&receiver, PollFlags::IN)];
        fds.extend(parent.as_ref().map(|parent| PollFd::new(parent, PollFlags::IN)));
        while matches!(poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
        tracing::debug!("the plugin ends");
        control.close();
        std::thread::sleep(END_TIMEOUT);
        tracing::warn!("the plugin did not end in order within {END_TIMEOUT:?}");
        std::process::exit(0);
    })?;
    Ok(())
}
