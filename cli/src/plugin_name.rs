//! What a new plugin may be called.
//!
//! The name is a folder's, a file's in a zip, part of sockets' paths and of an
//! engine's URLs, a crate's or a Python module's, and the beginning of the
//! symbols' names. What is no trouble in any of these is accepted.

use ekuiper_core::description::is_own;
use ekuiper_core::message::SymbolKind;

use crate::args::Language;
use crate::error::{Error, Result, excerpt};

/// Maximum length: the path of a socket has 107 bytes, and a symbol's name is
/// part of it. So are the lines of a new plugin, which its formatter would break
/// if they were longer.
const LONGEST: usize = 36;

/// A plugin's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginName(String);

impl PluginName {
    /// Checks a name for a plugin in this language.
    pub(crate) fn parse(name: &str, language: Language) -> Result<Self> {
        match problem(name, language) {
            None => Ok(Self(name.to_owned())),
            Some(problem) => {
                Err(Error::PluginName { name: excerpt(format!("{name:?}").as_bytes(), 0), problem, longest: LONGEST })
            }
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as an identifier, in SQL too, whose functions know no capital
    /// letters: `my_plugin` for `My-Plugin`.
    pub(crate) fn identifier(&self) -> String {
        identifier(&self.0)
    }
}

/// Returns the name as an identifier.
pub(crate) fn identifier(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// Says why a name is none for a plugin.
fn problem(name: &str, language: Language) -> Option<String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    let first = name.chars().next();
    let said = match first {
        None => "it is empty".to_owned(),
        Some(first) if !first.is_ascii_alphabetic() => format!("it begins with {first:?}"),
        _ if name.len() > LONGEST && name.is_ascii() => format!("it has {} characters", name.len()),
        _ => match name.chars().find(|letter| !is_plain(*letter)) {
            Some(odd) => format!("it contains {odd:?}"),
            None => return taken(name, language),
        },
    };
    Some(said)
}

/// Says what has the name already.
fn taken(name: &str, language: Language) -> Option<String> {
    let identifier = identifier(name);
    let is_in = |words: &str| words.split_whitespace().any(|word| word.to_ascii_lowercase() == identifier);
    if let Some(kind) = SymbolKind::ALL.into_iter().find(|kind| is_own(*kind, name) || is_own(*kind, &identifier)) {
        return Some(format!("eKuiper has a {kind} of this name"));
    }
    if is_in(PARTS) {
        return Some("a part of every plugin has this name".into());
    }
    let said = match language {
        Language::Rust if is_in(RUST_KEYWORDS) => "it is a keyword of Rust",
        Language::Rust if is_in(RUST_CRATES) => "a crate of Rust, of cargo's or of the plugin's has this name",
        Language::Python if is_in(PYTHON_KEYWORDS) => "it is a keyword of Python",
        Language::Python if is_in(PYTHON_MODULES) => "a module of Python or of the plugin's has this name",
        _ => return None,
    };
    Some(said.into())
}

/// What lies in a plugin's folder or package.
const PARTS: &str = "sources sinks functions tests target build dist venv node_modules";

const RUST_KEYWORDS: &str = "abstract as async await become box break const continue crate do dyn else enum extern \
    false final fn for gen if impl in let loop macro match mod move mut override priv pub ref return self static \
    struct super trait true try type typeof union unsafe unsized use virtual where while yield";

/// Rust's own, names that cargo keeps for itself, and the SDK and what a new
/// plugin depends on.
const RUST_CRATES: &str = "std core alloc proc_macro test deps examples incremental main bool char str f16 f32 f64 \
    f128 i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize ekuiper_sdk ekuiper_core ekuiper_host \
    ekuiper_transport_ipc ekuiper_transport_uds ekuiper_transport_nng ekuiper_transport_zeromq \
    ekuiper_transport_shm schemars serde serde_json tempfile tracing con prn aux nul";

const PYTHON_KEYWORDS: &str = "False None True and as assert async await break class continue def del elif else except \
    finally for from global if import in is lambda nonlocal not or pass raise return try while with yield match case \
    type";

/// Modules that a script's name would hide: the standard library of Python 3.9
/// to 3.14, and what a plugin or its tests import.
const PYTHON_MODULES: &str = "abc aifc annotationlib antigravity argparse array ast asynchat asyncio asyncore atexit \
    audioop base64 bdb binascii binhex bisect builtins bz2 cgi cgitb chunk calendar cmath cmd code codecs codeop \
    collections colorsys compileall compression concurrent configparser contextlib contextvars copy copyreg cprofile \
    crypt csv ctypes curses dataclasses datetime dbm decimal difflib dis distutils doctest email encodings ensurepip \
    enum errno faulthandler fcntl filecmp fileinput fnmatch formatter fractions ftplib functools gc genericpath getopt \
    getpass gettext glob graphlib grp gzip hashlib heapq hmac html http idlelib imaplib imghdr imp importlib inspect io \
    ipaddress itertools json keyword lib2to3 linecache locale logging lzma mailbox mailcap marshal math mimetypes mmap \
    modulefinder msilib msvcrt multiprocessing netrc nis nntplib nt ntpath nturl2path numbers opcode operator optparse \
    os ossaudiodev parser pathlib pdb pickle pickletools pipes pkgutil platform plistlib poplib posix posixpath pprint \
    profile pstats pty pwd py_compile pyclbr pydoc pydoc_data pyexpat queue quopri random re readline reprlib resource \
    rlcompleter runpy sched secrets select selectors shelve shlex shutil signal site smtpd smtplib sndhdr socket \
    socketserver spwd sqlite3 sre_compile sre_constants sre_parse ssl stat statistics string stringprep struct \
    subprocess sunau symbol symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios test textwrap \
    this threading time timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle turtledemo types \
    typing unicodedata unittest urllib uu uuid venv warnings wave weakref webbrowser winreg winsound wsgiref xdrlib \
    xml xmlrpc zipapp zipfile zipimport zlib zoneinfo ekuiper nng pynng pytest conftest sitecustomize usercustomize \
    setup pip setuptools";

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, language: Language) -> String {
        problem(name, language).unwrap_or_default()
    }

    #[test]
    fn names_for_every_place_are_accepted() {
        for name in ["a", "my-plugin", "my_plugin", "Thermo2", "x-", "plugin", "rust", "python", &"n".repeat(LONGEST)] {
            assert_eq!([said(name, Language::Rust), said(name, Language::Python)], ["", ""], "{name}");
        }
        let identifier = |name| PluginName::parse(name, Language::Rust).map(|name| name.identifier()).ok();
        assert_eq!(identifier("My-Plugin").as_deref(), Some("my_plugin"));
    }

    #[test]
    fn other_names_are_refused_with_the_reason() {
        for (name, reason) in [
            ("", "it is empty"),
            ("2fast", "it begins with '2'"),
            (".hidden", "it begins with '.'"),
            ("-dash", "it begins with '-'"),
            ("_x", "it begins with '_'"),
            ("übung", "it begins with 'ü'"),
            ("grün", "it contains 'ü'"),
            ("a b", "it contains ' '"),
            ("a\u{1b}[2J", "it contains '\\u{1b}'"),
            ("a\u{202e}b", "it contains '\\u{202e}'"),
            ("a.b", "it contains '.'"),
            ("mqtt", "eKuiper has a source of this name"),
            ("nop", "eKuiper has a sink of this name"),
            ("Repeat", "eKuiper has a function of this name"),
            ("json-path-query", "eKuiper has a function of this name"),
            ("tests", "a part of every plugin has this name"),
        ] {
            assert_eq!([said(name, Language::Rust), said(name, Language::Python)], [reason, reason], "{name}");
        }
        assert_eq!(said(&"n".repeat(300), Language::Rust), "it has 300 characters");
        assert_eq!(said("match", Language::Rust), "it is a keyword of Rust");
        assert_eq!(said("proc-macro", Language::Rust), "a crate of Rust, of cargo's or of the plugin's has this name");
        assert_eq!(said("None", Language::Python), "it is a keyword of Python");
        assert_eq!(said("ekuiper", Language::Python), "a module of Python or of the plugin's has this name");
        // Another language's words are no trouble.
        assert_eq!([said("lambda", Language::Rust), said("struct_", Language::Python)], ["", ""]);
    }

    #[test]
    fn a_name_is_refused_in_a_sentence_that_says_what_it_may_be() {
        let error = PluginName::parse("a\nb", Language::Rust).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let said = error.to_string();
        assert!(said.starts_with(r#""a\nb" cannot be a plugin's name: it contains '\n'; a name"#), "{said}");
        assert!(PluginName::parse(&"x y".repeat(300), Language::Rust).unwrap_err().to_string().len() < 400);
    }
}
