//! Every decoder under libFuzzer, several at once.
//!
//! The compiler's own coverage pass and the `libfuzzer-sys` crate are all that
//! is needed: a stable Rust and a C++ compiler.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::Result;
use crate::process::{cargo, execute, exists, output, root};
use crate::tools::Tools;

/// What cargo-fuzz passes too: count edges, and look into comparisons.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// How long each decoder is tried when nothing is said, in seconds.
const DEFAULT_SECONDS: u64 = 10;

/// Builds the fuzzer, tries each decoder for as long as the arguments say, and
/// prints what came of it.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let chosen = Chosen::parse(arguments)?;
    if !["c++", "g++", "clang++"].iter().any(|compiler| exists(compiler)) && std::env::var_os("CXX").is_none() {
        let mut tools = Tools::default();
        tools.skip("the fuzzing: it needs a C++ compiler (install the Debian package g++)".into())?;
        tools.report_skipped();
        return Ok(());
    }
    let fuzzer = Fuzzer { program: build()?, folder: folder(), seconds: chosen.seconds };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    eprintln!("xtask: {} decoders for {} s each, {jobs} at once", chosen.decoders.len(), chosen.seconds);
    let left = Mutex::new(chosen.decoders.iter());
    let next = || left.lock().ok()?.next();
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let work = || std::iter::from_fn(next).map(|decoder| fuzzer.run(decoder)).collect::<Vec<_>>();
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            found.extend(worker.join().unwrap_or_else(|_| vec![Err("a thread ended early".into())]));
        }
    });
    let mut found: Vec<Found> = found.into_iter().collect::<Result<_>>()?;
    found.sort_by(|one, other| one.decoder.cmp(&other.decoder));
    report(&found)
}

/// What the arguments say.
struct Chosen {
    seconds: u64,
    decoders: Vec<String>,
}

impl Chosen {
    fn parse(arguments: &[String]) -> Result<Self> {
        let known = decoders()?;
        let mut chosen = Self { seconds: DEFAULT_SECONDS, decoders: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let unit = match argument.as_str() {
                "--minutes" => 60,
                "--seconds" => 1,
                name if known.iter().any(|known| known == name) => {
                    chosen.decoders.push(name.to_owned());
                    continue;
                }
                other => return Err(format!("{other:?} is no decoder: there are {}", known.join(", "))),
            };
            let number = arguments.next().and_then(|text| text.parse::<u64>().ok()).filter(|number| *number > 0);
            chosen.seconds = number.ok_or_else(|| format!("{argument} needs a whole number"))?.saturating_mul(unit);
        }
        if chosen.decoders.is_empty() {
            chosen.decoders = known;
        }
        Ok(chosen)
    }
}

/// The decoders: each has a folder of inputs.
fn decoders() -> Result<Vec<String>> {
    let corpus = root().join("fuzz/corpus");
    let wrong = |error| format!("cannot read {}: {error}", corpus.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&corpus).map_err(wrong)? {
        names.push(entry.map_err(wrong)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Where the fuzzer is built and works.
fn folder() -> PathBuf {
    root().join("target/fuzz")
}

/// Builds the fuzzer. With a target named, its flags are for it alone, not for
/// build scripts and macros.
fn build() -> Result<PathBuf> {
    let version = output(Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV"))?;
    let target = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc does not name its host")?;
    let mut build = cargo();
    build
        .args(["build", "--release", "--manifest-path", "fuzz/libfuzzer/Cargo.toml", "--target", target])
        .env("CARGO_TARGET_DIR", folder())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", FLAGS.join(" "));
    execute(&mut build)?;
    Ok(folder().join(target).join("release/ekuiper-libfuzzer"))
}

struct Fuzzer {
    program: PathBuf,
    folder: PathBuf,
    seconds: u64,
}

/// What came of one decoder.
#[derive(Default)]
struct Found {
    decoder: String,
    executions: u64,
    per_second: u64,
    edges: u64,
    features: u64,
    /// How many inputs are kept because each reaches something else.
    inputs: String,
    megabytes: u64,
    /// The input that broke it.
    crash: Option<String>,
    log: PathBuf,
}

impl Fuzzer {
    /// Tries one decoder; what is found stays in `target/fuzz`, and the next
    /// run goes on from there.
    fn run(&self, decoder: &str) -> Result<Found> {
        let made = |kind: &str, name: &str| {
            let path = self.folder.join(kind).join(name);
            std::fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
            Ok::<_, String>(path)
        };
        let corpus = made("corpus", decoder)?;
        let crashes = made("crashes", decoder)?;
        let log = made("logs", "")?.join(format!("{decoder}.log"));
        let writer = File::create(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let mut command = Command::new(&self.program);
        command
            .current_dir(root())
            .env("EKUIPER_FUZZ_TARGET", decoder)
            .env("RUST_BACKTRACE", "0")
            .arg(corpus)
            .arg(Path::new("fuzz/corpus").join(decoder))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .arg(format!("-max_total_time={}", self.seconds))
            .args(["-dict=fuzz/dictionary", "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"])
            .args(["-use_value_profile=1", "-print_final_stats=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer);
        let status = command.status().map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        let text = std::fs::read(&log).map_err(|error| format!("cannot read {}: {error}", log.display()))?;
        let mut found = Found { decoder: decoder.to_owned(), log, ..Found::default() };
        found.read(&String::from_utf8_lossy(&text));
        if !status.success() && found.crash.is_none() {
            return Err(format!("the fuzzer of {decoder} ended with {status}: see {}", found.log.display()));
        }
        let _ = writeln!(std::io::stderr(), "xtask: {}", found.line());
        Ok(found)
    }
}

impl Found {
    /// Takes the figures from what libFuzzer says.
    fn read(&mut self, log: &str) {
        for line in log.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |key: &str| words.iter().position(|word| *word == key).and_then(|place| words.get(place + 1));
            let number = |key: &str| after(key).and_then(|word| word.parse().ok());
            if let Some(executions) = words.first().and_then(|word| word.strip_prefix('#')?.parse().ok()) {
                // `#123 DONE cov: 65 ft: 120 corp: 15/300b exec/s: 1000 …`
                self.executions = executions;
                self.edges = number("cov:").unwrap_or(self.edges);
                self.features = number("ft:").unwrap_or(self.features);
                self.inputs = after("corp:").map_or(self.inputs.clone(), |word| (*word).to_owned());
                self.per_second = number("exec/s:").unwrap_or(self.per_second);
            }
            self.executions = number("stat::number_of_executed_units:").unwrap_or(self.executions);
            self.megabytes = number("stat::peak_rss_mb:").unwrap_or(self.megabytes);
            if let Some((_, path)) = line.split_once("Test unit written to ") {
                self.crash = Some(path.trim().to_owned());
            }
        }
    }

    fn line(&self) -> String {
        let Self { decoder, executions, per_second, edges, features, inputs, megabytes, crash, .. } = self;
        let crashes = u8::from(crash.is_some());
        let reached = format!("{edges:>6} {features:>9} {inputs:>12}");
        format!("{decoder:<11} {executions:>12} {per_second:>9} {reached} {megabytes:>6} {crashes:>8}")
    }
}

/// The table on stdout; an error when something broke.
fn report(found: &[Found]) -> Result<()> {
    println!("decoder       executions  a second  edges  features  corpus/size     MB  crashes");
    found.iter().for_each(|found| println!("{}", found.line()));
    let broken: Vec<_> = found
        .iter()
        .filter_map(|found| {
            let (decoder, crash) = (&found.decoder, found.crash.as_ref()?);
            let log = found.log.display();
            Some(format!("{decoder} broke ({log}); again: cargo run -p ekuiper-fuzz -- {decoder} {crash}"))
        })
        .collect();
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\nxtask: ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_run_are_read() {
        let mut found = Found::default();
        found.read(
            "#2\tINITED cov: 8 ft: 8 corp: 1/1b exec/s: 0 rss: 27Mb\n\
             #2277\tDONE   cov: 19 ft: 29 corp: 2/5b lim: 4096 exec/s: 2069 rss: 27Mb\n\
             stat::number_of_executed_units: 2278\nstat::peak_rss_mb:              28\n",
        );
        let figures = (found.executions, found.per_second, found.edges, found.features, found.megabytes);
        assert_eq!(figures, (2278, 2069, 19, 29, 28));
        assert_eq!((found.inputs.as_str(), found.crash.as_deref()), ("2/5b", None));
        found.read("artifact_prefix='x/'; Test unit written to x/crash-1\nBase64: AAo=\n");
        assert_eq!(found.crash.as_deref(), Some("x/crash-1"));
    }
}
