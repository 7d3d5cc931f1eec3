//! The plugin `mirror`, built from its sources, and a session with it.

#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests, of which each program uses a part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::{env, fs};

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::Result;
use datafusion::prelude::{SessionConfig, SessionContext};
use ekuiper_datafusion::PluginCatalog;
use ekuiper_host::Host;

/// A folder with the plugin `mirror`, a host for it, and a session.
pub(crate) struct Mirror {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) host: Arc<Host>,
    pub(crate) ctx: SessionContext,
}

impl Mirror {
    pub(crate) fn new() -> Self {
        Self::with(|catalog| catalog)
    }

    pub(crate) fn with(set: impl FnOnce(PluginCatalog) -> PluginCatalog) -> Self {
        let folder = plugins();
        let builder = Host::builder().plugins_dir(folder.path().join("plugins")).ipc_dir(folder.path().join("ipc"));
        let host = Arc::new(builder.build().unwrap());
        let ctx = SessionContext::new_with_config(SessionConfig::new().with_information_schema(true));
        set(PluginCatalog::new(host.clone())).register_all(&ctx).unwrap();
        Self { folder, host, ctx }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs a statement and returns its rows as a table.
    pub(crate) async fn sql(&self, sql: &str) -> Result<String> {
        let batches = self.ctx.sql(sql).await?.collect().await?;
        Ok(pretty_format_batches(&batches)?.to_string())
    }

    /// Runs a statement that fails, and returns the error.
    pub(crate) async fn error(&self, sql: &str) -> String {
        match self.sql(sql).await {
            Err(error) => error.to_string(),
            Ok(rows) => panic!("{sql} gave\n{rows}"),
        }
    }

    /// The number of symbols of the plugin that are open.
    pub(crate) fn open_sources(&self) -> usize {
        let status = self.host.status("mirror").unwrap();
        status.symbols.iter().filter(|symbol| symbol.kind == ekuiper_host::SymbolKind::Source).count()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.host.shutdown();
    }
}

/// A folder with `plugins/mirror`, and `ipc` for sockets.
pub(crate) fn plugins() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("plugins/mirror");
    fs::create_dir_all(&plugin).unwrap();
    fs::create_dir(folder.path().join("ipc")).unwrap();
    fs::copy(program(), plugin.join("mirror")).unwrap();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/mirror/mirror.json");
    fs::copy(manifest, plugin.join("mirror.json")).unwrap();
    folder
}

/// Builds the plugin's program.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "-p", "mirror", "--target-dir"]).arg(&target);
        let built = build.current_dir(workspace).env_remove("CARGO_TARGET_DIR").status().unwrap();
        assert!(built.success(), "the plugin mirror cannot be built: {built}");
        target.join("debug/mirror")
    })
}
