//! Archives that lie, and what each is answered.

use std::io::Write;

use ekuiper_core::Chain;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

/// An archive of these entries, written without any check.
fn archive(entries: &[(&str, Option<u32>, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.zip");
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    for (name, mode, bytes) in entries {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        let options = mode.map_or(options, |mode| options.unix_permissions(mode));
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    (folder, path)
}

/// Replaces bytes of a file, everywhere.
fn patch(path: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let mut count = 0;
    for at in 0..bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + from.len()].copy_from_slice(to);
            count += 1;
        }
    }
    assert!(count > 0, "nothing to replace");
    fs::write(path, bytes).unwrap();
}

fn error_of(path: &Path) -> String {
    Chain(&Archive::open(path, Limits::default()).unwrap_err()).to_string()
}

/// Unpacks, and checks that nothing is left if that fails, nor anything
/// outside.
fn unpack(folder: &Path, path: &Path, limits: Limits) -> String {
    let into = folder.join("into").join("plugin");
    fs::create_dir_all(into.parent().unwrap()).unwrap();
    let outcome = Archive::open(path, limits).and_then(|mut archive| archive.unpack(&into, |_| true));
    let text = Chain(&outcome.unwrap_err()).to_string();
    assert!(!into.exists(), "{text}: something is left");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "{text}: something is outside");
    text
}

#[test]
fn entries_out_of_the_folder_are_refused() {
    let cases = [
        ("../x", "entry ../x leads out of the plugin's folder"),
        ("a/../../x", "entry a/../../x leads out of the plugin's folder"),
        ("/tmp/x", "entry /tmp/x is an absolute path"),
        ("a\\..\\x", "has a backslash in its name"),
        ("a\u{1b}[2Jb", "entry a\\u{1b}[2Jb has a control character"),
    ];
    for (name, wanted) in cases {
        // The writer may tidy names up: a placeholder of the same length.
        let placeholder = "_".repeat(name.len());
        let (folder, path) = archive(&[("p.json", None, b"{}"), (&placeholder, None, b"x")]);
        patch(&path, placeholder.as_bytes(), name.as_bytes());
        let text = unpack(folder.path(), &path, Limits::default());
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn links_and_devices_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.zip");
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    zip.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    zip.finish().unwrap();
    assert!(unpack(folder.path(), &path, Limits::default()).contains("entry link is a symbolic link"));
}

#[test]
fn an_entry_that_is_there_twice_is_refused() {
    let (folder, path) = archive(&[("a1", None, b"1"), ("a2", None, b"2")]);
    patch(&path, b"a2", b"a1");
    let text = unpack(folder.path(), &path, Limits::default());
    assert!(text.ends_with("lists an entry twice"), "{text}");
}

#[test]
fn what_is_no_zip_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.zip");
    for content in [&b""[..], b"hello", b"PK\x03\x04", &[0; 100_000]] {
        fs::write(&path, content).unwrap();
        assert!(error_of(&path).contains("is not a zip, or it is damaged"), "{}", error_of(&path));
    }
    assert!(error_of(folder.path()).contains("not a plain file"), "{}", error_of(folder.path()));
    let missing = error_of(&folder.path().join("none.zip"));
    assert!(missing.starts_with("cannot read ") && missing.contains("No such file"), "{missing}");
}

#[test]
fn damage_is_found_and_nothing_is_left() {
    let noise: Vec<u8> = (0..60_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (folder, path) = archive(&[("p.json", None, b"{}"), ("noise", None, &noise)]);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&path, &bytes).unwrap();
    let text = unpack(folder.path(), &path, Limits::default());
    assert!(text.contains("entry noise cannot be unpacked"), "{text}");
    // Cut off: the list of entries is at the end.
    fs::write(&path, &bytes[..middle]).unwrap();
    assert!(error_of(&path).contains("is not a zip"));
}

#[test]
fn a_bomb_ends_before_the_disk_is_full() {
    let zeros = vec![0; 80 << 20];
    let (folder, path) = archive(&[("p.json", None, b"{}"), ("zeros", None, &zeros)]);
    let text = unpack(folder.path(), &path, Limits::default());
    assert!(text.contains("taken for a zip bomb"), "{text}");
    let text = unpack(folder.path(), &path, Limits { size: 1 << 20, ..Limits::default() });
    assert!(text.contains("is larger than 1 MiB, unpacked"), "{text}");
    // One that announces less than it holds.
    let mut bytes = fs::read(&path).unwrap();
    let name = bytes.windows(5).rposition(|window| window == b"zeros").unwrap();
    let announced = &mut bytes[name - 46 + 24..][..4];
    assert_eq!(announced, (80u32 << 20).to_le_bytes());
    announced.copy_from_slice(&100u32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let text = unpack(folder.path(), &path, Limits::default());
    assert!(text.contains("taken for a zip bomb") || text.contains("cannot be unpacked"), "{text}");
    let many: Vec<_> = (0..30).map(|number| format!("f{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), None, &b""[..])).collect();
    let (folder, path) = archive(&many);
    let text = unpack(folder.path(), &path, Limits { entries: 20, ..Limits::default() });
    assert!(text.contains("has 30 entries, and the limit is 20"), "{text}");
}

#[test]
fn the_manifest_names_the_plugin() {
    let name_of = |entries: &[(&str, Option<u32>, &[u8])]| {
        let (_folder, path) = archive(entries);
        let archive = Archive::open(&path, Limits::default()).unwrap();
        archive.plugin().map(str::to_owned).map_err(|error| Chain(&error).to_string())
    };
    assert_eq!(name_of(&[("p.json", None, b""), ("sources/s.json", None, b"")]).unwrap(), "p");
    let text = name_of(&[("p.py", None, b"")]).unwrap_err();
    assert!(text.ends_with("has no manifest: NAME.json must be at its root, not in a folder"), "{text}");
    let text = name_of(&[("p/p.json", None, b"")]).unwrap_err();
    assert!(text.ends_with("; p/p.json is in a folder: zip the folder's content instead of the folder"), "{text}");
    let text = name_of(&[("p.json", None, b""), ("q.json", None, b"")]).unwrap_err();
    assert!(text.contains("2 files that may be the manifest: p.json, q.json"), "{text}");
}

#[test]
fn modes_are_those_of_the_archive_without_special_bits_and_what_lets_others_write() {
    let (folder, path) = archive(&[
        ("run", Some(0o104_755), b""),
        ("secret", Some(0o100_000), b""),
        ("plain", None, b""),
        ("bin/open", Some(0o100_777), b""),
    ]);
    let into = folder.path().join("plugin");
    Archive::open(&path, Limits::default()).unwrap().unpack(&into, |_| true).unwrap();
    let mode = |name: &str| into.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("run"), mode("secret") & 0o700), (0o755, 0o600));
    assert_eq!(mode("bin/open"), 0o755);
    let again = Archive::open(&path, Limits::default()).unwrap().unpack(&into, |_| true);
    assert!(again.is_err() && into.join("run").exists(), "an existing folder is left alone");
}

#[test]
fn unpacking_can_be_ended() {
    let (folder, path) = archive(&[("a", None, &[7; 300_000])]);
    let into = folder.path().join("plugin");
    let ended = Archive::open(&path, Limits::default()).unwrap().unpack(&into, |_| false).unwrap_err();
    assert!(matches!(&ended, ArchiveError::Write { source, .. } if source.kind() == io::ErrorKind::Interrupted));
    assert!(!into.exists());
}
