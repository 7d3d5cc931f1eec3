//! A plugin in a stock engine, and the rules that run on it. Each measurement
//! has an engine of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ekuiper_bench::clock::Pace;
use ekuiper_bench::machine::Usage;
use ekuiper_bench::metric::{Metric, Sample};
use ekuiper_bench::peer::{Measured, Peer, Rule, frames};
use ekuiper_bench::reading::Reading;
use ekuiper_bench::subject::SIZE;
use ekuiper_bench::{Error, Result, check, child};
use ekuiper_core::Chain;
use ekuiper_interop::engine::kuiperd::{Engine, PATIENCE, Site};
use ekuiper_interop::engine::package;
use serde_json::{Value, json};

/// The name of the measured plugin, where it is not fixed.
const NAME: &str = "benchrules";

/// The stream of the engine's own rows.
const FEED: &str = "feed";

/// The name of the measured rule.
const RULE: &str = "measured";

/// The name of the rule whose rows are looked into, and of their file.
const CHECKED: &str = "checked";

/// The file in which a sink leaves the number of its rows.
const COUNT: &str = "count";

/// What the engine's rows go through.
pub(crate) enum Candidate {
    /// A program on our SDK.
    Native(PathBuf),
    /// The same program as a plugin that has all its frames beforehand.
    Frames(PathBuf),
    /// The script of `plugin/bench.py`.
    Python { python: PathBuf, script: PathBuf },
    /// The official Go SDK's `mirror`.
    Go(PathBuf),
    /// The engine's own source, function and sink.
    Engine,
}

/// A plugin in a stock engine.
pub(crate) struct Stock {
    name: &'static str,
    title: &'static str,
    candidate: Candidate,
}

impl Stock {
    pub(crate) fn new(name: &'static str, title: &'static str, candidate: Candidate) -> Self {
        Self { name, title, candidate }
    }

    /// Checks that there is what the plugin is made of.
    ///
    /// # Errors
    /// Why there is not.
    pub(crate) fn is_there(&self) -> Result<(), String> {
        let paths: &[&Path] = match &self.candidate {
            Candidate::Native(program) | Candidate::Frames(program) | Candidate::Go(program) => &[program],
            Candidate::Python { python, script } => &[python, script],
            Candidate::Engine => &[],
        };
        match paths.iter().find(|path| !path.is_file()) {
            Some(path) => Err(format!("there is no {}: `cargo xtask bench rules` builds ours", path.display())),
            None => Ok(()),
        }
    }

    /// The plugin's name, if there is one.
    fn plugin(&self) -> Option<&str> {
        match self.candidate {
            Candidate::Engine => None,
            Candidate::Go(_) => Some("mirror"),
            Candidate::Frames(_) => Some(frames::NAME),
            _ => Some(NAME),
        }
    }

    /// The name of one of the plugin's symbols, or of the engine's instead.
    fn symbol(&self, ours: &str, go: &'static str, own: &'static str) -> String {
        match self.candidate {
            Candidate::Engine => own.into(),
            Candidate::Go(_) => go.into(),
            _ => format!("{}_{ours}", self.plugin().unwrap_or_default()),
        }
    }

    /// Makes a site whose engine has the stream of its own rows, and the
    /// plugin's zip in it.
    fn site(&self) -> Result<Site> {
        let python = match &self.candidate {
            Candidate::Python { python, .. } => python.clone(),
            _ => "python3".into(),
        };
        let site = Site::bare(|| python).map_err(Error::Peer)?;
        let feed = json!({ FEED: { "data": [Reading::of_size(SIZE)], "interval": "1us", "loop": true } });
        let settings = site.path("base/etc/sources/simulator.yaml");
        fs::write(&settings, feed.to_string()).map_err(Error::io(format!("write {}", settings.display())))?;
        let Some(plugin) = self.plugin() else { return Ok(site) };
        let (executable, path, is_executable) = match &self.candidate {
            Candidate::Python { script, .. } => ("bench.py", script, false),
            Candidate::Native(program) | Candidate::Frames(program) => (child::NAME, program, true),
            Candidate::Go(program) => ("mirror", program, true),
            Candidate::Engine => return Ok(site),
        };
        let program = fs::read(path).map_err(Error::io(format!("read {}", path.display())))?;
        let source = self.symbol("typed", "random", "");
        let functions = [self.symbol("echo0", "echo", "")];
        let manifest = json!({
            "version": "v1.0.0",
            "language": if is_executable { "go" } else { "python" },
            "executable": executable,
            "sources": [source],
            "sinks": [self.symbol("rows", "file", "")],
            "functions": functions,
        });
        let settings = json!({ "default": match self.candidate {
            // The fields of a reading, which can be whole numbers only.
            Candidate::Go(_) => json!({
                "interval": 0,
                "seed": 1000,
                "pattern": { "id": 0, "temperature": 0, "humidity": 0, "alarm": 0, "note": 0 },
            }),
            _ => json!({ "note": "" }),
        }});
        package::write(
            &site.path(&format!("{plugin}.zip")),
            &[
                (&format!("{plugin}.json"), manifest.to_string().as_bytes(), false),
                (executable, &program, is_executable),
                (&format!("sources/{source}.yaml"), settings.to_string().as_bytes(), false),
            ],
        );
        Ok(site)
    }

    /// The rule's SQL and its action.
    fn rule_of(&self, rule: Rule) -> (String, Value) {
        let nop = json!({ "nop": {} });
        match rule {
            Rule::Source => ("SELECT * FROM measured_source".into(), nop),
            Rule::Function => {
                (format!("SELECT {}(note) AS note FROM {FEED}", self.symbol("echo0", "echo", "lower")), nop)
            }
            Rule::Sink => {
                let sink = self.symbol("rows", "file", "nop");
                let settings = json!({ "requireAck": true, "count": format!("/tmp/{COUNT}") });
                (format!("SELECT * FROM {FEED}"), json!({ sink: settings }))
            }
        }
    }
}

impl Peer for Stock {
    fn name(&self) -> &str {
        self.name
    }

    fn title(&self) -> &str {
        self.title
    }

    fn is_limit(&self) -> bool {
        matches!(self.candidate, Candidate::Engine | Candidate::Frames(_))
    }

    fn about(&self) -> String {
        match &self.candidate {
            Candidate::Engine => "the engine's own source simulator, function lower and sink nop: no plugin".into(),
            Candidate::Go(_) => {
                "the plugin mirror of the official Go SDK, on mangos; its sink acknowledges nothing".into()
            }
            Candidate::Python { .. } => format!("a plugin in Python: {}", self.title),
            Candidate::Frames(_) => {
                "a plugin that has all its frames beforehand, and looks into none that it gets".into()
            }
            Candidate::Native(_) => "a plugin on our Rust SDK, over uds, in JSON".into(),
        }
    }

    fn rule(&self, pace: Pace, rule: Rule) -> Measured {
        if rule == Rule::Sink && matches!(self.candidate, Candidate::Go(_)) {
            return Ok(None);
        }
        let site = self.site()?;
        let engine = Engine::start(&site);
        let measured = self.measure(&site, &engine, pace, rule);
        engine.kill();
        // An official SDK's plugin may live on: it ends with the site.
        measured
    }
}

impl Stock {
    fn measure(&self, site: &Site, engine: &Engine<'_>, pace: Pace, rule: Rule) -> Measured {
        if let Some(plugin) = self.plugin() {
            engine
                .try_install(plugin)
                .map_err(|text| Error::Peer(format!("the engine does not install {plugin}: {text}")))?;
        }
        let stream = |name: &str, source: &str, settings: &str| {
            let sql =
                format!(r#"CREATE STREAM {name} () WITH (TYPE="{source}", FORMAT="json", CONF_KEY="{settings}")"#);
            ask(engine, "/streams", &json!({ "sql": sql }))
        };
        stream(FEED, "simulator", FEED)?;
        match self.candidate {
            Candidate::Engine => stream("measured_source", "simulator", FEED)?,
            _ => stream("measured_source", &self.symbol("typed", "random", ""), "default")?,
        }
        if !self.is_right(site, engine, rule)? {
            return Ok(None);
        }
        let (sql, action) = self.rule_of(rule);
        create(engine, RULE, &sql, action)?;
        std::thread::sleep(pace.warm_up);
        let first = Rows::of(engine, RULE)?;
        let before = Used::by(site, engine)?;
        std::thread::sleep(pace.measured);
        let used = Used::by(site, engine)?.since(&before);
        let last = Rows::of(engine, RULE)?;
        if rule == Rule::Sink && self.plugin().is_some() {
            let stopped = engine.request("POST", &format!("/rules/{RULE}/stop"), None);
            stopped.map_err(|text| Error::Peer(format!("the engine does not stop the rule: {text}")))?;
            let number = || fs::read_to_string(site.path(COUNT)).ok()?.parse::<u64>().ok();
            let count = wait_for("the sink's number of rows", number)?;
            check(count >= last.count, format!("{count} rows have come, and {} were counted", last.count))?;
        }
        let rows = last.count.saturating_sub(first.count) as f64;
        check(rows > 0.0, format!("no row came through the rule in {:?}", pace.measured))?;
        let per_million = |seconds: f64| seconds / rows * 1e6;
        let sample = Sample::default()
            .with(Metric::PerSecond, rows / (last.at - first.at).as_secs_f64())
            .with(Metric::EngineCpuPerMillion, per_million(used.engine));
        Ok(Some(match self.candidate {
            Candidate::Engine => sample,
            _ => sample.with(Metric::PluginCpuPerMillion, per_million(used.plugin)),
        }))
    }

    /// Runs the rule into a file, and checks the rows in it; `false` if the
    /// plugin cannot run it.
    fn is_right(&self, site: &Site, engine: &Engine<'_>, rule: Rule) -> Result<bool> {
        if rule == Rule::Sink {
            return Ok(true);
        }
        let (sql, _) = self.rule_of(rule);
        let file = json!({ "file": { "path": format!("/tmp/{CHECKED}"), "fileType": "lines" } });
        create(engine, CHECKED, &sql, file)?;
        let ran = wait_for("a row of the rule", || match Rows::of(engine, CHECKED) {
            Ok(rows) => (rows.count > 0).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })?;
        match ran {
            // Its source insists on a pause after each row.
            Err(error) if matches!(self.candidate, Candidate::Go(_)) => {
                eprintln!("SKIPPED: {}: {}", self.name, Chain(&error));
                return Ok(false);
            }
            ran => ran?,
        }
        // The file is complete when the rule has ended.
        let deleted = engine.request("DELETE", &format!("/rules/{CHECKED}"), None);
        deleted.map_err(|text| Error::Peer(format!("the engine does not delete the rule: {text}")))?;
        let rows = wait_for("the rule's rows", || {
            // Each line is an array of rows.
            let lines = site.rows(CHECKED).into_iter();
            let rows: Vec<Value> = lines.flat_map(|line| line.as_array().cloned().unwrap_or_default()).collect();
            (!rows.is_empty()).then_some(rows)
        })?;
        let note = Reading::of_size(SIZE).note;
        let fields = ["id", "temperature", "humidity", "alarm", "note"];
        let is_right = |row: &Value| match rule {
            Rule::Function => *row == json!({ "note": note }),
            _ => fields.iter().all(|field| row.get(field).is_some()),
        };
        check(rows.iter().all(is_right), format!("the rule gives other rows: {}", rows[0]))?;
        Ok(true)
    }
}

/// How many rows have come through the rule, and when.
struct Rows {
    count: u64,
    at: Instant,
}

impl Rows {
    /// Asks the engine, which must have no error.
    fn of(engine: &Engine<'_>, rule: &str) -> Result<Self> {
        let before = Instant::now();
        let status = engine.rule_status(rule);
        let at = before + before.elapsed() / 2;
        let figures = |end: &'static str| {
            let figures = status.as_object().into_iter().flatten();
            figures.filter(move |(name, _)| name.ends_with(end))
        };
        let exception = figures("_last_exception").find_map(|(_, text)| text.as_str().filter(|text| !text.is_empty()));
        if status["status"] != "running" || exception.is_some() {
            let text = exception.unwrap_or_default();
            return Err(Error::Peer(format!(
                "the engine's rule is {}: {} {text}",
                status["status"], status["message"]
            )));
        }
        let sinks = figures("_records_out_total").filter(|(name, _)| name.starts_with("sink_"));
        Ok(Self { count: sinks.filter_map(|(_, count)| count.as_u64()).sum(), at })
    }
}

/// CPU time, in seconds.
struct Used {
    engine: f64,
    plugin: f64,
}

impl Used {
    fn by(site: &Site, engine: &Engine<'_>) -> Result<Self> {
        let mut used = Self { engine: Usage::of(engine.pid())?.cpu, plugin: 0.0 };
        let others = site.processes().into_iter().map(|process| process.pid.unsigned_abs());
        for pid in others.filter(|pid| *pid != engine.pid()) {
            used.plugin += Usage::of(pid)?.cpu;
        }
        Ok(used)
    }

    fn since(&self, before: &Self) -> Self {
        Self { engine: self.engine - before.engine, plugin: self.plugin - before.plugin }
    }
}

fn ask(engine: &Engine<'_>, path: &str, body: &Value) -> Result<()> {
    let answer = engine.request("POST", path, Some(body));
    answer.map(drop).map_err(|text| Error::Peer(format!("the engine refuses POST {path}: {text}")))
}

/// Creates a rule in which rows wait where a buffer is full: none is dropped.
fn create(engine: &Engine<'_>, id: &str, sql: &str, action: Value) -> Result<()> {
    let options = json!({ "disableBufferFullDiscard": true });
    ask(engine, "/rules", &json!({ "id": id, "sql": sql, "actions": [action], "options": options }))
}

/// Looks until `look` finds something.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match look() {
            Some(found) => return Ok(found),
            // The engine tells of no event.
            None if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(10)),
            None => return Err(Error::Peer(format!("{what}: not within {PATIENCE:?}"))),
        }
    }
}
