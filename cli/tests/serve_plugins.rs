//! `serve`: how the plugins fare, and whether all run.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use ekuiper_conformance::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::Bench;
use support::served::{Server, package};

/// The only plugin of `GET /plugins`.
fn plugin(server: &Server) -> Value {
    let plugins = server.json("/plugins");
    let [plugin] = plugins.as_array().unwrap().as_slice() else { panic!("{plugins}") };
    plugin.clone()
}

fn kill(plugin: &Value) {
    let pid = Pid::from_raw(plugin["pid"].as_i64().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn a_crash_is_counted_and_its_reason_is_told() {
    let bench = Bench::new();
    let request = package(&bench, "v1");
    let server = Server::start(&bench);
    assert_eq!(server.json("/plugins"), json!([]));
    assert_eq!(server.ask("GET", "/readyz", "", ""), (200, "ready\n".into()));
    assert_eq!(server.ask("POST", "/plugins/portables", &request, "").0, 201);
    assert_eq!(server.ask("GET", "/readyz", "", "").0, 200);

    let first = plugin(&server);
    let (name, version, state) = (&first["name"], &first["version"], &first["state"]);
    assert_eq!((name, version, state), (&json!("mirror"), &json!("v1"), &json!("running")), "{first}");
    assert_eq!(first["functions"], json!(["echo", "revert", "average"]));
    assert_eq!((&first["sources"], &first["sinks"]), (&json!(["random"]), &json!(["file", "lines"])));
    assert_eq!((&first["crashes"], &first["restarts"], &first["processes"]), (&json!(0), &json!(0), &json!(1)));
    assert_eq!((&first["last_error"], &first["last_exit"]), (&Value::Null, &Value::Null));
    assert!(first["resident"].as_u64().unwrap() > 0 && first["uptime"].as_f64().unwrap() > 0.0, "{first}");

    kill(&first);
    wait_until("the plugin was restarted", || plugin(&server)["restarts"] == 1);
    let second = plugin(&server);
    assert_eq!((&second["crashes"], &second["processes"]), (&json!(1), &json!(2)), "{second}");
    assert_ne!(second["pid"], first["pid"]);
    assert!(second["last_error"]["text"].as_str().unwrap().contains("signal 9"), "{second}");
    assert!(second["last_error"]["at"].as_f64().unwrap() > 1e9, "{second}");
    let (_, figures) = server.ask("GET", "/metrics", "", "");
    assert!(figures.contains("ekuiper_plugin_crashes_total{plugin=\"mirror\"} 1\n"), "{figures}");
    // By default, who runs it is told, too.
    let said = server.end();
    for event in
        ["plugin mirror crashed (signal 9", "plugin mirror is being restarted", "plugin mirror was restored after"]
    {
        assert!(said.lines().any(|line| line.contains(event)), "{event}: {said}");
    }
    bench.assert_nothing_is_left();
}

#[test]
fn it_is_ready_when_each_plugin_runs() {
    let bench = Bench::new();
    let request = package(&bench, "v1");
    let server = Server::start(&bench);
    assert_eq!(server.ask("POST", "/plugins/portables", &request, "").0, 201);
    let described = server.json("/plugins/portables/mirror");
    let program = std::path::Path::new(described["executable"].as_str().unwrap()).to_owned();

    // It cannot be restarted for a while.
    let aside = program.with_extension("aside");
    std::fs::rename(&program, &aside).unwrap();
    kill(&plugin(&server));
    let said = server.wait_for("/readyz", 503);
    assert!(said.starts_with("plugin mirror is ") && said.lines().count() == 1, "{said}");
    let mut said = String::new();
    wait_until("the reason is told", || {
        said = server.ask("GET", "/readyz", "", "").1;
        said.contains("does not exist")
    });
    assert_eq!(said.matches("plugin mirror").count(), 1, "{said}");
    assert!(plugin(&server)["last_error"]["text"].as_str().unwrap().contains("does not exist"));
    std::fs::rename(&aside, &program).unwrap();
    server.wait_for("/readyz", 200);

    // It cannot be used at all.
    server.end();
    let manifest = program.with_file_name("mirror.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, "{").unwrap();
    let server = Server::start(&bench);
    let (status, said) = server.ask("GET", "/readyz", "", "");
    assert_eq!(status, 503, "{said}");
    assert!(said.starts_with("plugin mirror is unusable: cannot use "), "{said}");
    let unusable = plugin(&server);
    assert_eq!((&unusable["name"], &unusable["state"]), (&json!("mirror"), &json!("unusable")), "{unusable}");
    assert!(unusable["last_error"]["text"].as_str().unwrap().starts_with("cannot use "), "{unusable}");
    server.end();

    // It is ready once its plugins are started.
    std::fs::write(&manifest, text).unwrap();
    let server = Server::start(&bench);
    server.wait_for("/readyz", 200);
    server.end();
    bench.assert_nothing_is_left();
}
