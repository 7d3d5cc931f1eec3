//! A package's `install.sh`, which is run once, with `/bin/sh`, in the plugin's
//! folder, as eKuiper does.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use ekuiper_core::printable;

use crate::bounded::{self, Ended, KEPT, MOST};

/// Name of the script.
pub const SCRIPT: &str = "install.sh";

/// Runs the script with these parameters. When it has not ended after
/// `patience`, or `is_cancelled`, it is killed; what it has started and left
/// running is killed in any case.
///
/// # Errors
/// How it has failed, and the end of what it has written, as the rest of a
/// sentence.
pub fn run(
    folder: &Path,
    parameters: &[String],
    patience: Duration,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<(), String> {
    let arguments: Vec<OsString> =
        [SCRIPT].into_iter().map(OsString::from).chain(parameters.iter().map(OsString::from)).collect();
    let ended = bounded::run(Path::new("/bin/sh"), &arguments, folder, patience, is_cancelled);
    let (ended, output) = ended.map_err(|error| format!("cannot be run by /bin/sh: {error}"))?;
    let how = match ended {
        Ended::Status(status) if status.success() => return Ok(()),
        Ended::Status(status) => format!("has failed ({status})"),
        Ended::Late => format!("has not ended after {patience:?}, and was killed;"),
        Ended::Flooded => format!("has written more than {} MiB, and was killed;", MOST >> 20),
    };
    let wrote = if let Ended::Status(_) = ended { "and wrote" } else { "it wrote" };
    // What is escaped is longer.
    let output = printable::lines(&output);
    let start = output.len().saturating_sub(KEPT);
    let start = (start..output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(start);
    let output = &output[start..];
    Err(if output.is_empty() { format!("{how} {wrote} nothing") } else { format!("{how} {wrote}:\n{output}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn said(script: &str, parameters: &[&str], patience: Duration) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SCRIPT), script).unwrap();
        let parameters: Vec<_> = parameters.iter().map(|text| (*text).to_owned()).collect();
        run(folder.path(), &parameters, patience, &|| false)
    }

    #[test]
    fn it_runs_in_the_folder_with_its_parameters() {
        let long = Duration::from_secs(60);
        assert_eq!(said("test -f install.sh && test \"$2\" = 'a b' && test $# = 2", &["x", "a b"], long), Ok(()));
        let failed = said("echo it is\necho broken >&2\nexit 3", &[], long).unwrap_err();
        assert_eq!(failed, "has failed (exit status: 3) and wrote:\nit is\nbroken");
        assert_eq!(said("exit 1", &[], long).unwrap_err(), "has failed (exit status: 1) and wrote nothing");
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SCRIPT), "sleep 1000 &\necho $! > pid").unwrap();
        run(folder.path(), &[], Duration::from_secs(100), &|| false).unwrap();
        let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
        // It was killed, and ends a moment later.
        let give_up = Instant::now() + Duration::from_secs(20);
        while Path::new("/proc").join(pid.trim()).exists() {
            assert!(Instant::now() < give_up);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_that_floods_is_killed() {
        let failed = said("yes", &[], Duration::from_secs(100)).unwrap_err();
        assert!(failed.starts_with("has written more than 16 MiB, and was killed; it wrote:\ny\n"), "{failed}");
    }

    #[test]
    fn one_that_hangs_is_killed_with_its_children() {
        for script in ["sleep 1000", "exec >&- 2>&-; sleep 1000", "sleep 1000 & wait"] {
            let failed = said(script, &[], Duration::from_millis(200)).unwrap_err();
            assert_eq!(failed, "has not ended after 200ms, and was killed; it wrote nothing");
        }
    }
}
