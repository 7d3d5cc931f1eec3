//! The manager: where a plugin may come from, and what of it is refused.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::managed::{builder, file, files, install, scratch, update};
use ekuiper_interop::packages;
use ekuiper_manager::archive::Limits;
use ekuiper_manager::{InstallOptions, Manager, Origin};

/// The names in the folder of the installed `mirror`.
fn installed(manager: &Manager) -> Vec<String> {
    let folder = &manager.plugins().unwrap()[0].folder;
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_is_installed_as_its_package_would_be() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let manager = builder(root.path()).open().unwrap();
    let mut contents = packages::mirror("v1");
    contents.add_bytes("install.sh", "echo \"$1\" > said", false).unwrap();
    // Of any name: the manifest's counts.
    let folder = packages::folder(&contents, root.path(), "checkout");
    for left_out in [".git/config", "target/debug/x", "__pycache__/x.pyc", "old.zip"] {
        let path = folder.join(left_out);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    symlink("mirror.json", folder.join("link")).unwrap();
    let options = InstallOptions { parameters: vec!["hello".into()], ..InstallOptions::default() };
    manager.install(&file(folder.clone()), &options).unwrap();
    // With what the plugin's description gives for eKuiper.
    let names = ["functions", "install.sh", "link", "mirror", "mirror.json", "said", "sinks", "sources"];
    assert_eq!(installed(&manager), names);
    assert_eq!(manager.host().function("revert").unwrap().call::<String>(("abc",)).unwrap(), "cba");
    let of = |name: &str| manager.plugins().unwrap()[0].folder.join(name);
    assert!(!of("link").is_symlink());
    assert_eq!(fs::read_to_string(of("said")).unwrap(), "hello\n");
    assert_eq!(of("mirror").metadata().unwrap().permissions().mode() & 0o777, 0o755);

    // A program may lie where it was built. What is edited is not what runs.
    let manifest = packages::manifest("v2").to_string().replace(":\"mirror\"", ":\"target/debug/mirror\"");
    fs::write(folder.join("mirror.json"), manifest).unwrap();
    fs::rename(folder.join("mirror"), folder.join("target/debug/mirror")).unwrap();
    assert_eq!(manager.plugins().unwrap()[0].manifest.version, "v1");
    assert_eq!(update(&manager, &file(folder.clone())).unwrap(), "v2");
    assert!(of("target/debug/mirror").is_file() && !of("target/debug/x").exists());
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(manager.host().function("revert").unwrap().call::<String>(("abc",)).unwrap(), "cba");
}

#[test]
fn a_server_that_hangs_is_given_up() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let manager = builder(root.path()).fetch_timeout(Duration::from_millis(300)).open().unwrap();
    let before = files(root.path());
    for begun in ["", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nPK"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/p.zip", listener.local_addr().unwrap());
        let hang = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(begun.as_bytes()).unwrap();
            // Until the other side gives up.
            let _ = connection.read_to_end(&mut Vec::new());
        });
        let error = install(&manager, &Origin::parse(&url).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("cannot fetch ") && error.contains("timeout"), "{begun}: {error}");
        hang.join().unwrap();
        assert_eq!(files(root.path()), before);
    }
}

/// An address that is not taken for a private one; in a network of its own it
/// leads nowhere else.
const PUBLIC: &str = "203.0.113.1";

/// Variable that tells the next test that it is in a network of its own.
const ISOLATED: &str = "EKUIPER_TEST_ISOLATED";

#[test]
fn a_redirection_to_a_private_address_is_not_followed() {
    let name = "a_redirection_to_a_private_address_is_not_followed";
    if std::env::var_os(ISOLATED).is_none() {
        // In a network where the address is this machine's.
        let script = format!("ip link set lo up && ip address add {PUBLIC}/32 dev lo && exec \"$@\"");
        let isolated = |command: &[&OsStr]| {
            let arguments = ["--map-root-user", "--net", "sh", "-c", &script, "sh"];
            Command::new("unshare").args(arguments).args(command).env(ISOLATED, "").status()
        };
        if !isolated(&["true".as_ref()]).is_ok_and(|status| status.success()) {
            let why = "this user cannot make networks (unshare --map-root-user --net, ip)";
            // Past the capture of the test's output.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {name}: {why}");
            return;
        }
        let own = std::env::current_exe().unwrap();
        assert!(isolated(&[own.as_ref(), "--exact".as_ref(), name.as_ref()]).unwrap().success());
        return;
    }
    let _watchdog = Watchdog::start();
    let root = scratch();
    let manager = builder(root.path()).allow_private_addresses(false).open().unwrap();
    let before = files(root.path());
    let private = TcpListener::bind("127.0.0.1:0").unwrap();
    private.set_nonblocking(true).unwrap();
    let port = private.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0177.1"] {
        let listener = TcpListener::bind((PUBLIC, 0)).unwrap();
        let url = format!("http://{}/p.zip", listener.local_addr().unwrap());
        let answer = format!("HTTP/1.1 302 Found\r\nlocation: http://{host}:{port}/p.zip\r\ncontent-length: 0\r\n\r\n");
        let redirect = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let _ = connection.read(&mut [0; 4096]);
            connection.write_all(answer.as_bytes()).unwrap();
        });
        let error = install(&manager, &Origin::parse(&url).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("cannot fetch ") && !error.contains("refused"), "{host}: {error}");
        redirect.join().unwrap();
        assert!(private.accept().is_err(), "{host}: the redirection was followed");
        assert_eq!(files(root.path()), before);
    }
}

#[test]
fn bad_folders_change_nothing() {
    type Spoil = fn(&Path);
    let _watchdog = Watchdog::start();
    let root = scratch();
    let mut limits = Limits::default();
    (limits.size, limits.entries) = (1 << 20, 20);
    let manager = builder(root.path()).limits(limits).open().unwrap();
    fs::write(root.path().join("secret"), "x").unwrap();
    let before = files(root.path());
    let cases: [(&str, Spoil, &str); 10] = [
        (
            "link",
            |folder| symlink("../secret", folder.join("data")).unwrap(),
            "data is a link out of the plugin's folder",
        ),
        ("absolute", |folder| symlink("/etc/passwd", folder.join("data")).unwrap(), "data is a link out of the"),
        ("linked", |folder| symlink("/etc", folder.join("data")).unwrap(), "data is a link to a folder"),
        ("nowhere", |folder| symlink("none", folder.join("data")).unwrap(), "cannot read "),
        (
            "pipe",
            |folder| {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, folder.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
            },
            "pipe is neither a file nor a folder",
        ),
        (
            "large",
            |folder| fs::write(folder.join("data"), vec![7; 2 << 20]).unwrap(),
            "is larger than 1 MiB, which is the limit",
        ),
        (
            "many",
            |folder| (0..30).for_each(|number| fs::write(folder.join(format!("f{number}")), "").unwrap()),
            "has more than 20 files and folders, which is the limit",
        ),
        ("none", |folder| fs::remove_file(folder.join("mirror.json")).unwrap(), "no manifest"),
        ("two", |folder| fs::write(folder.join("other.json"), "{}").unwrap(), "none of its 2 JSON files is two.json"),
        (
            "outside",
            |folder| {
                let manifest = packages::manifest("v1").to_string().replace(":\"mirror\"", ":\"../secret\"");
                fs::write(folder.join("mirror.json"), manifest).unwrap();
            },
            "../secret",
        ),
    ];
    for (name, spoil, said) in cases {
        let folder = packages::folder(&packages::mirror("v1"), root.path(), name);
        spoil(&folder);
        let error = install(&manager, &file(folder)).unwrap_err();
        let text = ekuiper_host::Chain(&error).to_string();
        assert!(text.contains(said) && !text.contains("downloads"), "{name}: {text}");
        assert_eq!(files(root.path()), before, "{name}");
    }
    let good = packages::folder(&packages::mirror("v1"), root.path(), "good");
    let options = InstallOptions { sha256: Some("0".repeat(64)), ..InstallOptions::default() };
    let error = manager.install(&file(good), &options).unwrap_err().to_string();
    assert!(error.ends_with("is a folder, and only a zip has a checksum: leave it out"), "{error}");
    assert_eq!(files(root.path()), before);
}
