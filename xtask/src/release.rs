//! A release, rehearsed: everything that is published, made and checked in
//! `target/release-files`, and nothing published.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{execute, output, root};
use crate::tools::{self, CARGO_CYCLONEDX, SEMVER_CHECKS, Tools};
use crate::{Result, cross, oldest, publish, wheels};

/// What programs and wheel are made of: the folder and the crate's artifact, as
/// the tool names its file.
const BILLS: [(&str, &str); 2] = [("cli", "ekuiper-plugin_bin"), ("python", "_ekuiper_cdylib")];

const CHECKSUMS: &str = "SHA256SUMS";

/// Rehearses the release.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if arguments != ["--dry-run"] {
        return Err(
            "cargo xtask release takes --dry-run: it makes what would be published, and publishes nothing".into()
        );
    }
    let mut tools = tools::set_up()?;
    let release = Release { version: version()?, folder: root().join("target/release-files") };
    let changes = release.changes()?;
    let _ = std::fs::remove_dir_all(&release.folder);
    std::fs::create_dir_all(&release.folder)
        .map_err(|error| format!("cannot make {}: {error}", release.folder.display()))?;
    oldest::check(&mut tools)?;
    compatible(&mut tools)?;
    let packages = publish::packages(true, &tools)?;
    let files = publish::files(&packages)?;
    for name in packages.iter().map(publish::Package::file_name) {
        release.take(&files.join(&name), &name)?;
    }
    wheels::release(&release.folder, &mut tools)?;
    for (triple, program) in cross::static_commands(&mut tools)? {
        release.take(&program, &format!("ekuiper-plugin-{}-{triple}", release.version))?;
    }
    release.bills(&tools)?;
    let checksums = release.checksums()?;

    println!("ekuiper-plugins {}\n\n{}\n", release.version, changes.trim());
    println!("1. Crates, each after those that it depends on: cargo publish --workspace");
    packages.iter().for_each(|package| println!("   {}", package.file_name()));
    println!(
        "2. Wheels and sources for Python: maturin upload target/release-files/*.whl target/release-files/*.tar.gz"
    );
    println!("3. Programs, lists of what is in them, and {CHECKSUMS}, at the tag v{}", release.version);
    println!("\nIn target/release-files, with SHA-256:\n{}", checksums.trim_end());
    tools.report_skipped();
    Ok(())
}

/// The workspace's version.
fn version() -> Result<String> {
    let text = read(&root().join("Cargo.toml"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    value.map(str::to_owned).ok_or_else(|| "Cargo.toml has no version".into())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Compares the crates' interfaces with those of the last version.
fn compatible(tools: &mut Tools) -> Result<()> {
    let described =
        Command::new("git").args(["describe", "--tags", "--abbrev=0", "--match", "v*"]).current_dir(root()).output();
    let tag = described.ok().filter(|output| output.status.success());
    let Some(tag) = tag.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()) else {
        tools.note("the comparison with the last version: no version has a tag yet".into());
        return Ok(());
    };
    let mut check = Command::new(tools.cargo_tool(&SEMVER_CHECKS)?);
    check.args(["semver-checks", "--workspace", "--baseline-rev", &tag]).current_dir(root());
    execute(tools.for_command(&mut check))
}

/// What a release is made into.
struct Release {
    version: String,
    folder: PathBuf,
}

impl Release {
    /// What the changelog says of this version.
    fn changes(&self) -> Result<String> {
        let text = read(&root().join("CHANGELOG.md"))?;
        let heading = format!("## [{}]", self.version);
        let rest = text.split_once(&heading).map(|(_, rest)| rest.split_once('\n').unwrap_or_default().1);
        let rest = rest.ok_or_else(|| format!("CHANGELOG.md has no section {heading}"))?;
        Ok(rest.split("\n## [").next().unwrap_or_default().to_owned())
    }

    fn take(&self, file: &Path, name: &str) -> Result<()> {
        let copied = std::fs::copy(file, self.folder.join(name));
        copied.map(drop).map_err(|error| format!("cannot copy {} to {name}: {error}", file.display()))
    }

    /// Lists what programs and wheel are made of, in CycloneDX.
    fn bills(&self, tools: &Tools) -> Result<()> {
        let mut list = Command::new(tools.cargo_tool(&CARGO_CYCLONEDX)?);
        list.args(["cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5", "--describe", "binaries"]);
        list.args(["--target", "all", "--no-build-deps"]).current_dir(root());
        let listed = execute(&mut list);
        let taken = BILLS.iter().try_for_each(|(folder, artifact)| {
            let text = read(&root().join(folder).join(format!("{artifact}.cdx.json")))?;
            // What is local to this machine is of no use to anybody else.
            let text = text.replace(&root().display().to_string(), "/ekuiper-plugins");
            let name = format!("{}-{}.cdx.json", artifact.trim_start_matches('_'), self.version);
            std::fs::write(self.folder.join(&name), text).map_err(|error| format!("cannot write {name}: {error}"))
        });
        remove_bills(&root())?;
        listed.and(taken)
    }

    /// Writes the checksums, and returns them.
    fn checksums(&self) -> Result<String> {
        let entries = std::fs::read_dir(&self.folder);
        let entries = entries.map_err(|error| format!("cannot read {}: {error}", self.folder.display()))?;
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let sums = output(Command::new("sha256sum").args(names).current_dir(&self.folder))?;
        std::fs::write(self.folder.join(CHECKSUMS), &sums)
            .map_err(|error| format!("cannot write {CHECKSUMS}: {error}"))?;
        Ok(sums)
    }
}

/// Removes the lists: the tool writes one beside each crate of the workspace.
fn remove_bills(folder: &Path) -> Result<()> {
    let wrong = |error| format!("cannot clear {}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(wrong)?.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !name.starts_with('.') && name != "target" {
                remove_bills(&path)?;
            }
        } else if name.ends_with(".cdx.json") {
            std::fs::remove_file(&path).map_err(wrong)?;
        }
    }
    Ok(())
}
