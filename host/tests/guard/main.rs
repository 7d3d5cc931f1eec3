//! Nothing survives a host, however it ends: its plugins' process groups end
//! with it, with the processes they started, and so do their guards.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod bench;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use bench::{Bench, be_a_host, found, official_python, write_program, zombies};
use ekuiper_conformance::wait_for;
use rustix::process::{Pid, Signal, kill_process};

/// Not a test: the other tests start this executable again, as a host.
#[test]
fn in_the_role_of_a_host() {
    be_a_host();
}

/// A plugin that starts processes of its own and waits for them.
const FAMILY: &str = "sleep 86400 &\nsh -c 'sleep 86400 & wait' &\n: > ready\nwait";

#[test]
fn a_script_and_its_children_end_with_a_killed_host() {
    let bench = Bench::new();
    let name = bench.script("family", FAMILY);
    let mut host = bench.host();
    host.start(&name);
    bench.wait_ready(&name);
    host.kill();
    bench.wait_nothing_but(&[]);
}

#[test]
fn what_ignores_sigterm_is_killed() {
    let bench = Bench::new();
    let name = bench.script("stubborn", &format!("trap '' TERM HUP INT\n{FAMILY}\nwhile :; do wait; done"));
    let mut host = bench.host();
    host.start(&name);
    bench.wait_ready(&name);
    host.kill();
    bench.wait_nothing_but(&[]);
}

#[test]
fn what_ends_on_sigterm_ends_in_its_own_way() {
    let bench = Bench::new();
    let name = bench.script("polite", &format!("trap 'touch ended; exit' TERM\n{FAMILY}"));
    let mut host = bench.host();
    host.start(&name);
    bench.wait_ready(&name);
    host.kill();
    bench.wait_nothing_but(&[]);
    assert!(bench.path("plugins").join(&name).join("ended").exists(), "its SIGTERM came before its SIGKILL");
}

#[test]
fn an_official_python_plugin_ends_with_a_killed_host() {
    let bench = Bench::new();
    let Some(name) = python_plugin(&bench, "py", "") else { return };
    let mut host = bench.host();
    assert_eq!(host.ask(&format!("call f{name}")), "olleh");
    host.kill();
    bench.wait_nothing_but(&[]);
    // The next host takes over the sockets that the killed one left in /tmp.
    let sockets = ["plugin_", "func_f"].map(|kind| PathBuf::from(format!("/tmp/{kind}{name}.ipc")));
    assert!(
        sockets.iter().all(|path| UnixStream::connect(path).is_err() && path.exists()),
        "there, and nobody listens"
    );
    let mut host = bench.host();
    assert_eq!(host.ask(&format!("call f{name}")), "olleh");
    assert_eq!(host.ask("shutdown"), "shut down");
    assert!(!sockets.iter().any(|path| path.exists()), "an orderly host leaves no socket");
}

#[test]
fn fault_15_the_child_of_a_conda_like_wrapper_ends_with_a_killed_host() {
    let bench = Bench::new();
    let Some(name) = conda_plugin(&bench) else { return };
    let mut host = bench.host();
    assert_eq!(host.ask(&format!("call f{name}")), "olleh");
    // The wrapper, python, python's own child, and the guard.
    assert_eq!(bench.processes().len(), 5, "{:#?}", bench.processes());
    host.kill();
    bench.wait_nothing_but(&[]);
}

#[test]
fn all_kinds_of_plugins_end_with_a_killed_host() {
    let bench = Bench::new();
    let folder = bench.plugin("mirror", &std::fs::read_to_string(example("mirror/mirror.json")).unwrap());
    std::os::unix::fs::symlink(build_mirror(), folder.join("mirror")).unwrap();
    let script = bench.script("family", FAMILY);
    let names = [python_plugin(&bench, "py", ""), conda_plugin(&bench)];
    let mut host = bench.host();
    for name in names.iter().flatten() {
        assert_eq!(host.ask(&format!("call f{name}")), "olleh");
    }
    assert_eq!(host.ask("call revert"), "olleh");
    host.start(&script);
    bench.wait_ready(&script);
    let before = bench.processes();
    let killed = Instant::now();
    host.kill();
    bench.wait_nothing_but(&[]);
    tell(&format!("nothing is left of {} processes {:?} after kill -9 of their host", before.len(), killed.elapsed()));
}

#[test]
fn an_orderly_host_leaves_nothing() {
    let bench = Bench::new();
    let name = bench.script("family", FAMILY);
    let mut host = bench.host();
    host.start(&name);
    bench.wait_ready(&name);
    bench.guard();
    host.tell("shutdown");
    while host.hear() != "shut down" {}
    // At once: a process that ends after it may be looked for.
    let left: Vec<_> =
        bench.processes().into_iter().filter(|found| u32::try_from(found.pid) != Ok(host.pid())).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn the_guard_stays_when_a_plugin_has_ended() {
    let bench = Bench::new();
    let name = bench.script("mortal", "sleep 86400 &\n: > ready\nread line < go");
    let folder = bench.path("plugins").join(&name);
    let go = folder.join("go");
    assert!(Command::new("mkfifo").arg(&go).status().unwrap().success());
    let mut host = bench.host();
    host.start(&name);
    bench.wait_ready(&name);
    std::fs::write(&go, "\n").unwrap();
    let said = host.hear();
    assert!(said.contains("ended before its handshake (exit code 0)"), "{said}");
    bench.wait_nothing_but(&[host.pid(), bench.guard().id()]);
}

#[test]
fn a_plugin_that_cannot_be_executed_leaves_nothing() {
    let bench = Bench::new();
    let name = bench.script("unborn", "");
    write_program(&bench.path("plugins").join(&name).join("run"), "#!/no/such/interpreter\n");
    let mut host = bench.host();
    host.start(&name);
    let said = host.hear();
    assert!(said.contains("names the interpreter /no/such/interpreter, which does not exist"), "{said}");
    bench.wait_nothing_but(&[host.pid(), bench.guard().id()]);
}

#[test]
fn the_guard_keeps_nothing_of_its_hosts_and_hears_no_signal() {
    let bench = Bench::new();
    let names: Vec<_> = (0..8).map(|number| bench.script(&format!("p{number}"), FAMILY)).collect();
    let mut host = bench.host();
    // All in parallel, so that each is forked while others have their pipes
    // open.
    names.iter().for_each(|name| host.start(name));
    names.iter().for_each(|name| bench.wait_ready(name));
    let all = bench.processes();
    let guard = bench.guard();
    let descriptors = std::fs::read_dir(guard.proc("fd")).unwrap();
    let held: Vec<_> = descriptors.map(|entry| entry.unwrap().path().read_link().unwrap()).collect();
    assert_eq!(held.len(), 1, "{held:?}");
    assert!(held[0].to_string_lossy().starts_with("socket:"), "not the plugin's output, or a listener: {held:?}");
    assert_eq!(guard.proc("cwd").read_link().unwrap(), Path::new("/"));
    let relatives = all.iter().filter(|other| other.pid != guard.pid);
    assert_eq!(u32::try_from(guard.parent), Ok(host.pid()), "who waits for it");
    for other in relatives {
        assert!(guard.session != other.session, "{guard:?} shares its session with {other:?}");
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::ALARM, Signal::USR1] {
        kill_process(Pid::from_raw(guard.pid).unwrap(), signal).unwrap();
    }
    // Nevertheless, it does its work.
    host.kill();
    bench.wait_nothing_but(&[]);
}

#[test]
fn another_guard_follows_one_that_is_killed_or_stopped() {
    for signal in [Signal::KILL, Signal::STOP] {
        let bench = Bench::new();
        let names = ["before", "after", "last"].map(|name| bench.script(name, FAMILY));
        let mortal = bench.script("mortal", ": > ready\nuntil test -e go; do sleep 0.02; done\nexit 3");
        let mut host = bench.host();
        host.start(&names[0]);
        bench.wait_ready(&names[0]);
        let former = bench.guard();
        kill_process(Pid::from_raw(former.pid).unwrap(), signal).unwrap();
        // The start of a plugin finds that it does not answer.
        host.start(&names[1]);
        bench.wait_ready(&names[1]);
        let second = bench.guard();
        assert!(second.pid != former.pid, "there is another one");
        // And so does the end of one.
        host.start(&mortal);
        bench.wait_ready(&mortal);
        kill_process(Pid::from_raw(second.pid).unwrap(), signal).unwrap();
        std::fs::write(bench.path("plugins").join(&mortal).join("go"), "").unwrap();
        let said = host.hear();
        assert!(said.contains("exit code 3"), "{said}");
        wait_for("there is another one again", || (bench.guard().pid != second.pid).then_some(()));
        // A start waits until it guards all that its predecessor did.
        host.start(&names[2]);
        bench.wait_ready(&names[2]);
        host.kill();
        bench.wait_nothing_but(&[]);
    }
}

#[test]
fn a_stopped_host_is_not_gone() {
    let bench = Bench::new();
    let name = bench.script("family", FAMILY);
    let mut host = bench.host();
    host.start(&name);
    bench.wait_ready(&name);
    let all = 6;
    wait_for("the host, the guard, and the family", || (bench.processes().len() == all).then_some(()));
    let host_pid = Pid::from_raw(host.pid().try_into().unwrap()).unwrap();
    kill_process(host_pid, Signal::STOP).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", host.pid()));
    wait_for("the host is stopped", || found(&proc).filter(|found| found.state == "T"));
    kill_process(host_pid, Signal::CONT).unwrap();
    assert_eq!(host.ask("ping"), "pong");
    assert_eq!(bench.processes().len(), all);
}

#[test]
fn a_host_that_adopts_orphans_reaps_its_plugins() {
    let bench = Bench::new();
    let name = bench.script("brief", "exit 3");
    let mut host = bench.host();
    assert_eq!(host.ask("adopt"), "adopts");
    host.start(&name);
    assert!(host.hear().contains("exit code 3"));
    let children = PathBuf::from(format!("/proc/{}/task", host.pid()));
    let guard = format!("{} ", bench.guard().pid);
    wait_for("no child but the guard is left, not even a zombie", || {
        let tasks = std::fs::read_dir(&children).unwrap();
        let lists =
            tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
        (lists.collect::<String>() == guard).then_some(())
    });
}

/// If process 1 of a container waits only for its own child, a process that is
/// nobody else's child stays a zombie forever.
#[test]
fn plugins_leave_no_zombie_where_nobody_reaps_orphans() {
    let bench = Bench::new();
    let names: Vec<_> = (0..5).map(|number| bench.script(&format!("p{number}"), "exit 3")).collect();
    let mut host = bench.adopter();
    for name in &names {
        host.start(name);
        assert!(host.hear().contains("exit code 3"));
    }
    bench.guard();
    // The only child is the host, which waits for its own children.
    let adopted = zombies(host.pid());
    assert!(adopted.is_empty(), "{adopted:#?}");
    let host_pid = wait_for("the host", || bench.processes().into_iter().find(|it| it.parent as u32 == host.pid()));
    wait_for("no zombie is left", || zombies(host_pid.pid as u32).is_empty().then_some(()));
    assert_eq!(host.ask("shutdown"), "shut down");
}

/// Orphans of a plugin become the host's children if the host adopts orphans,
/// as process 1 does; no other code would know them.
#[test]
fn a_host_that_adopts_orphans_reaps_those_of_its_plugins_and_no_others() {
    let bench = Bench::new();
    let name = bench.script("family", FAMILY);
    let mut host = bench.host();
    assert_eq!(host.ask("adopt"), "adopts");
    // The host's own child, which it has not waited for.
    assert_eq!(host.ask("bear"), "born");
    host.start(&name);
    bench.wait_ready(&name);
    let leader = bench.processes().into_iter().find(|found| found.pid == found.group && !found.is_guard());
    let leader = leader.filter(|found| u32::try_from(found.pid) != Ok(host.pid())).unwrap();
    kill_process(Pid::from_raw(leader.pid).unwrap(), Signal::KILL).unwrap();
    assert!(host.hear().contains("signal 9"));
    let own = wait_for("its own child and the guard are all that is left", || {
        let left = zombies(host.pid());
        (left.len() == 1 && bench.processes().len() == 2).then_some(left)
    });
    assert_eq!(own[0].name, "true", "{own:?}");
    assert_eq!(host.ask("shutdown"), "shut down");
    assert_eq!(zombies(host.pid()).len(), 1, "what is the engine's stays the engine's");
}

#[test]
fn a_plugin_starts_with_default_signals_whatever_its_host_has_done_to_its_own() {
    let bench = Bench::new();
    let of = |status: &Path, field: &str| {
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim_start_matches(':');
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    // How a plugin has ended cannot be known if SIGCHLD is ignored.
    for (kept, ended) in [("--default-signal=CHLD", "exit code 3"), ("--ignore-signal=CHLD", "exit status unknown")] {
        let name = bench.script(&format!("clean{}", kept.len()), "cat /proc/self/status > status\nexit 3");
        let mut host = bench.deaf_host(kept);
        assert_eq!(host.ask("ping"), "pong");
        let own = PathBuf::from(format!("/proc/{}/status", host.pid()));
        let terminate = 1 << (Signal::TERM.as_raw() - 1);
        assert!(of(&own, "SigIgn") & terminate != 0 && of(&own, "SigBlk") & terminate != 0, "it is deaf");
        host.start(&name);
        let said = host.hear();
        assert!(said.contains(ended), "{said}");
        let status = bench.path("plugins").join(&name).join("status");
        for field in ["SigBlk", "SigIgn", "SigCgt", "SigPnd"] {
            assert_eq!(of(&status, field), 0, "{field} of a plugin, {kept}");
        }
        assert_eq!(host.ask("shutdown"), "shut down");
        assert_eq!(zombies(host.pid()).len(), 0);
    }
}

#[test]
fn the_installer_of_an_environment_ends_with_a_killed_host() {
    let bench = Bench::new();
    let name = bench.unique("slow");
    let folder =
        bench.plugin(&name, r#"{"language":"python","executable":"p.py","functions":["f"],"virtualEnvType":"venv"}"#);
    std::fs::write(folder.join("p.py"), "").unwrap();
    std::fs::write(folder.join("requirements.txt"), "./package\n").unwrap();
    // pip itself runs this, in a separate process, and needs nothing else.
    let package = folder.join("package");
    std::fs::create_dir(&package).unwrap();
    let project = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    std::fs::write(package.join("pyproject.toml"), project).unwrap();
    let backend = format!(
        "import subprocess\nsubprocess.Popen(['sleep', '86400'])\nopen({:?}, 'w')\nwhile True: pass\n",
        folder.join("ready")
    );
    std::fs::write(package.join("backend.py"), backend).unwrap();
    let mut host = bench.host();
    host.start(&name);
    bench.wait_ready(&name);
    wait_for("what the installer has started itself", || {
        bench.processes().iter().any(|found| found.name == "sleep").then_some(())
    });
    host.kill();
    bench.wait_nothing_but(&[]);
}

#[test]
fn the_sockets_of_a_killed_host_are_taken_over() {
    let bench = Bench::new();
    let name = bench.script("family", FAMILY);
    let socket = PathBuf::from(format!("/tmp/plugin_{name}.ipc"));
    let mut host = bench.host();
    host.start(&name);
    bench.wait_ready(&name);
    host.kill();
    bench.wait_nothing_but(&[]);
    assert!(UnixStream::connect(&socket).is_err(), "nobody listens");
    assert!(socket.exists(), "and the file is still there");
    std::fs::remove_file(bench.path("plugins").join(&name).join("ready")).unwrap();
    let mut host = bench.host();
    host.start(&name);
    bench.wait_ready(&name);
    UnixStream::connect(&socket).unwrap();
    host.tell("shutdown");
    bench.wait_nothing_but(&[host.pid()]);
    assert!(!socket.exists());
}

#[test]
fn the_folder_of_a_killed_host_goes_with_the_next_host() {
    let bench = Bench::new();
    let folders = || {
        let entries = std::fs::read_dir(bench.path("tmp")).unwrap();
        let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        folders
    };
    let name = bench.script("family", FAMILY);
    let mut killed = bench.host();
    killed.start(&name);
    bench.wait_ready(&name);
    let left = folders();
    assert!(left.len() == 1 && std::fs::read_dir(&left[0]).unwrap().count() > 1, "with its sockets: {left:?}");
    // A live host keeps its own folder, whichever host comes.
    let mut living = bench.host();
    assert_eq!(living.ask("ping"), "pong");
    let both = folders();
    assert_eq!(both.len(), 2);
    killed.kill();
    bench.wait_nothing_but(&[living.pid(), bench.guard().id()]);
    assert_eq!(folders(), both, "nobody has removed it yet");
    let mut next = bench.host();
    assert_eq!(next.ask("ping"), "pong");
    let now = folders();
    assert!(now.len() == 2 && !now.contains(&left[0]), "{left:?}, {both:?}, {now:?}");
    assert!(both.iter().filter(|folder| !left.contains(folder)).all(|folder| now.contains(folder)));
    for host in [&mut living, &mut next] {
        assert_eq!(host.ask("shutdown"), "shut down");
    }
    assert_eq!(folders(), [] as [PathBuf; 0]);
}

/// Creates a plugin on the official SDK with a function `f<name>` that reverses
/// a text, and a child process that would not end by itself. Returns its name.
fn python_plugin(bench: &Bench, name: &str, environment: &str) -> Option<String> {
    if official_python().is_none() {
        tell("SKIPPED: plugins of the official Python SDK: cargo xtask tools sets it up");
        return None;
    }
    let name = bench.unique(name);
    let manifest = format!(
        r#"{{"version":"v1","language":"python","executable":"{name}.py","functions":["f{name}"]{environment}}}"#
    );
    let folder = bench.plugin(&name, &manifest);
    let program = format!(
        r#"
import subprocess
from ekuiper import Function, PluginConfig, plugin

class Revert(Function):
    def validate(self, args):
        return ""
    def exec(self, args, ctx):
        return args[0][::-1]
    def is_aggregate(self):
        return False

if __name__ == "__main__":
    subprocess.Popen(["sleep", "86400"])
    plugin.start(PluginConfig("{name}", {{}}, {{}}, {{"f{name}": Revert}}))
"#
    );
    std::fs::write(folder.join(format!("{name}.py")), program).unwrap();
    Some(name)
}

/// Creates the same plugin behind a wrapper that runs python as its child, as
/// `conda run` does.
fn conda_plugin(bench: &Bench) -> Option<String> {
    write_program(&bench.path("bin/conda"), "#!/bin/sh\n# run -n ENVIRONMENT COMMAND…\nshift 3\n\"$@\"\nexit $?\n");
    python_plugin(bench, "conda", r#","virtualEnvType":"conda","env":"demo""#)
}

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(path)
}

/// Builds the plugin in Rust.
fn build_mirror() -> PathBuf {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--message-format=json-render-diagnostics", "--manifest-path"])
        .arg(example("mirror/Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    let messages = String::from_utf8(output.stdout).unwrap();
    let messages = messages.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut programs = messages.filter(|message| message["target"]["name"] == "mirror");
    programs.find_map(|message| message["executable"].as_str().map(PathBuf::from)).unwrap()
}

/// Prints a text past the harness, which would hide it.
fn tell(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}
