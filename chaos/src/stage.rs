//! The plugins' folders, and a host for them.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ekuiper_host::{Host, RestartPolicy};
use serde_json::json;

use crate::plan::Who;
use crate::target::Target;
use crate::{Tools, survey};

/// Time for which a plugin must run before its next crash counts as isolated,
/// and is followed by an immediate restart.
pub(crate) const STABLE_AFTER: Duration = Duration::from_millis(250);

/// Timeout of a call, a message, and an acknowledgement.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// Number of a plugin's functions, so that there is much to restore.
pub(crate) const MANY: usize = 12;

/// Everything that a run has on disk.
pub(crate) struct Stage {
    folder: tempfile::TempDir,
    python: PathBuf,
    transport: Option<String>,
    pub(crate) targets: Vec<Arc<Target>>,
}

impl Stage {
    /// Creates the folders of these plugins. Their names contain this process's
    /// id, since the official SDK supports only `/tmp` for its sockets.
    pub(crate) fn new(tools: &Tools, who: &[Who]) -> std::io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("chaos-").tempdir()?;
        let targets = who.iter().map(|who| plugin(folder.path(), *who, tools).map(Arc::new));
        let targets = targets.collect::<std::io::Result<_>>()?;
        Ok(Self { folder, python: tools.python.clone(), transport: tools.transport.clone(), targets })
    }

    /// Creates a host with the plugins.
    pub(crate) fn host(&self) -> ekuiper_host::Result<Host> {
        let mut policy = RestartPolicy::default();
        policy.stable_after = STABLE_AFTER;
        policy.break_pause = Duration::from_secs(1);
        let builder = Host::builder().python_bin(self.python.display().to_string()).restart(policy);
        let builder = match &self.transport {
            Some(name) => builder.transport(name),
            None => builder,
        };
        let builder = builder.send_timeout(TIMEOUT).recv_timeout(TIMEOUT).init_timeout(Duration::from_secs(20));
        self.targets.iter().fold(builder, |builder, target| builder.plugin(&target.folder)).build()
    }

    /// Returns the processes and sockets of the plugins that exist now.
    pub(crate) fn remains(&self) -> Vec<String> {
        let mut remains = survey::processes_with(&self.folder.path().to_string_lossy());
        for target in &self.targets {
            let sockets = survey::sockets_in(Path::new("/tmp"), &target.name);
            remains.extend(sockets.iter().map(|path| path.display().to_string()));
        }
        remains
    }
}

fn plugin(root: &Path, who: Who, tools: &Tools) -> std::io::Result<Target> {
    let name = format!("cx{}{}", std::process::id(), &who.to_string()[..1]);
    let folder = root.join(&name);
    std::fs::create_dir(&folder)?;
    let (language, executable) = match who {
        Who::Ours => ("go", "plugin"),
        Who::Python => ("python", "chaos.py"),
        // Its interpreter differs from the host's.
        Who::Module => ("go", "module.sh"),
    };
    match who {
        Who::Ours => symlink(&tools.plugin, folder.join(executable))?,
        Who::Python | Who::Module => std::fs::write(folder.join("chaos.py"), include_str!("../plugin/chaos.py"))?,
    }
    if who == Who::Module {
        let script = format!("#!/bin/sh\nexec '{}' chaos.py \"$@\"\n", tools.module.display());
        std::fs::write(folder.join(executable), script)?;
        std::fs::set_permissions(folder.join(executable), Permissions::from_mode(0o755))?;
    }
    let many = (0..MANY).map(|number| format!("{name}_many{number}"));
    let functions: Vec<_> = ["fast", "slow"].map(|symbol| format!("{name}_{symbol}")).into_iter().chain(many).collect();
    let manifest = json!({
        "version": "v1.0.0", "language": language, "executable": executable,
        "sources": [format!("{name}_count"), format!("{name}_few"), format!("{name}_fail")], "sinks": [format!("{name}_keep"), format!("{name}_hold")],
        "functions": functions,
    });
    std::fs::write(folder.join(format!("{name}.json")), manifest.to_string())?;
    Ok(Target::new(who, name, folder))
}
