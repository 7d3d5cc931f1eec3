//! Where a package comes from: a file of this machine, or an address in the
//! network.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use ekuiper_core::instant::later;
use ekuiper_core::printable;
use ekuiper_host::Package;
use tempfile::NamedTempFile;
use ureq::config::Config;
use ureq::http::{Response, Uri, header};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};

use crate::archive::{ArchiveError, Contents, Files, Limits, is_left_out};
use crate::checksum::{checksum, is_checksum};
use crate::error::{Error, Result};

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for the beginning of an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Maximum number of redirections.
const REDIRECTIONS: u32 = 5;

/// Interval of the look whether the manager is ending.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Size of one read, in bytes.
const PIECE: usize = 128 << 10;

/// Where a package comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A zip of this machine, or a plugin's folder, of which that is installed
    /// which a package of it would have.
    File(PathBuf),
    /// A zip in the network, by `http` or, with the feature `https`, by `https`.
    Url(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => shown(url).fmt(f),
        }
    }
}

impl Origin {
    /// Reads a path, or a `file://`, `http://` or `https://` URL, the forms that
    /// eKuiper's interface takes. A relative path that begins as a URL does, with
    /// letters and a colon, is written with `./` before it.
    ///
    /// # Errors
    /// [`Error::Origin`] for another scheme, or no address.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |problem: &str| Err(Error::Origin { origin: refused(text), problem: problem.to_owned() });
        let Some((scheme, rest)) = scheme(text) else {
            return if text.is_empty() {
                refuse("is empty: give a path or a URL")
            } else {
                Ok(Self::File(text.into()))
            };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => match rest.strip_prefix("//").filter(|path| path.starts_with('/')).map(decoded) {
                Some(Some(path)) => Ok(Self::File(path.into())),
                Some(None) => refuse("has an escape that stands for no character"),
                None => refuse("names another machine, or no whole path: a file URL begins with file:///"),
            },
            "https" if cfg!(not(feature = "https")) => {
                refuse("needs TLS, which this build does not have: fetch the file with curl, and give its path")
            }
            "http" | "https" if is_address(text) => Ok(Self::Url(text.to_owned())),
            "http" | "https" => refuse("is no address"),
            _ => refuse("has a scheme that is not supported: give a path, file://, http:// or https://"),
        }
    }
}

/// Returns the scheme of a URL, and what follows its colon; `None` for a path.
pub(crate) fn scheme(text: &str) -> Option<(&str, &str)> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
    text.split_once(':').filter(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.chars().all(is_letter)
    })
}

/// Returns whether a text is a URL with a server.
fn is_address(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let (Some(_), Some(authority)) = (uri.scheme(), uri.authority()) else { return false };
    let server = authority.as_str().rsplit('@').next().unwrap_or_default();
    let port = server.strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':'));
    !authority.host().is_empty() && port.is_none_or(|_| authority.port_u16().is_some())
}

/// Returns the part of a URL in the network that names a file: what is before its
/// query.
pub(crate) fn before_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// A URL as it is shown and recorded: without the name and the password in it,
/// and without its query, which may be a secret too.
fn shown(url: &str) -> String {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let (server, path) = url[begin..].split_at(url[begin..].find(['/', '?', '#']).unwrap_or(url.len() - begin));
    let server = server.rsplit_once('@').map_or(server.to_owned(), |(_, server)| format!("…@{server}"));
    printable::short(&format!("{}{server}{}", &url[..begin], without_query(path)))
}

fn without_query(text: &str) -> String {
    let before = before_query(text);
    if before.len() < text.len() { format!("{before}?…") } else { text.to_owned() }
}

/// A text that is no origin as it is shown. It may be a URL that cannot be read,
/// so whatever precedes an `@` is taken for a name and a password.
pub(crate) fn refused(text: &str) -> String {
    let (begin, rest) = match scheme(text) {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("file") => return printable::short(text),
        // A path has no password.
        None if text.starts_with('/') && !text.starts_with("//") => return printable::short(text),
        Some((scheme, rest)) => (format!("{scheme}:"), rest),
        None => (String::new(), text),
    };
    let slashes = rest.len() - rest.trim_start_matches('/').len();
    let (slashes, rest) = rest.split_at(slashes);
    let rest = match rest.rsplit_once('@') {
        Some((_, after)) => format!("…@{}", without_query(after)),
        None => without_query(rest),
    };
    printable::short(&format!("{begin}{slashes}{rest}"))
}

/// Decodes the percent escapes of a URL's path.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

/// What is wrong with a package that has more than so many bytes.
pub(crate) fn larger_than(limit: u64) -> String {
    let (limit, unit) = match limit {
        _ if limit.is_multiple_of(1 << 20) => (limit >> 20, "MiB"),
        _ => (limit, "bytes"),
    };
    format!("it is larger than {limit} {unit}, which is the limit")
}

/// What may be fetched.
#[derive(Clone, Debug)]
pub(crate) struct FetchLimits {
    /// Maximum size of a package, in bytes.
    pub(crate) size: u64,
    /// Maximum time of a transfer.
    pub(crate) time: Duration,
    /// Whether this machine and private networks may be fetched from.
    pub(crate) allows_private: bool,
}

/// A package that is there, as a file.
#[derive(Debug)]
pub(crate) enum Fetched {
    There(PathBuf),
    Fetched(NamedTempFile),
}

impl Fetched {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::There(path) => path,
            Self::Fetched(file) => file.path(),
        }
    }
}

impl Origin {
    /// Makes the package a file, in `folder` where it must be fetched, and
    /// compares its SHA-256, in hexadecimal digits, if one is given. Gives up
    /// when `is_ending`.
    pub(crate) fn fetch(
        &self,
        folder: &Path,
        limits: &FetchLimits,
        unpacked: &Limits,
        sha256: Option<&str>,
        is_ending: &dyn Fn() -> bool,
    ) -> Result<Fetched> {
        if let Some(given) = sha256.filter(|given| !is_checksum(given)) {
            return Err(Error::NoChecksum { given: printable::short(given) });
        }
        let fetched = match self {
            Self::File(path) if path.is_dir() => match sha256 {
                Some(_) => {
                    let problem = "is a folder, and only a zip has a checksum: leave it out".into();
                    return Err(Error::Origin { origin: self.to_string(), problem });
                }
                None => Fetched::Fetched(pack(path, folder, unpacked)?),
            },
            Self::File(path) => Fetched::There(path.clone()),
            Self::Url(url) => {
                let unwritable = |source| Error::Folder { path: folder.to_owned(), source };
                let file = NamedTempFile::new_in(folder).map_err(unwritable)?;
                let to = file.reopen().map_err(unwritable)?;
                let (url, path, limits) = (url.clone(), folder.to_owned(), limits.clone());
                unless(is_ending, move || download(&url, to, &path, &limits))?;
                Fetched::Fetched(file)
            }
        };
        let Some(expected) = sha256 else { return Ok(fetched) };
        let unreadable = |source| ArchiveError::Read { path: fetched.path().to_owned(), source };
        let found = plain_file(fetched.path()).and_then(checksum).map_err(unreadable)?;
        if !expected.eq_ignore_ascii_case(&found) {
            return Err(Error::Checksum { origin: self.to_string(), expected: expected.to_owned(), found });
        }
        Ok(fetched)
    }
}

/// Packs a plugin's folder.
fn pack(plugin: &Path, folder: &Path, limits: &Limits) -> Result<NamedTempFile> {
    let mut contents = Contents::new();
    let files = Files::bounded(plugin, limits.clone());
    files.add(Path::new(""), &mut contents, &is_left_out)?;
    // It may lie where building has put it.
    let executable = Package::read(plugin)?.manifest.executable;
    files.add(Path::new(&executable), &mut contents, &|_| false)?;
    let file = NamedTempFile::new_in(folder).map_err(|source| Error::Folder { path: folder.to_owned(), source })?;
    contents.store(file.path())?;
    Ok(file)
}

fn plain_file(path: &Path) -> io::Result<File> {
    // A pipe without a writer would hang this.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    Ok(file)
}

/// Does what may wait for another machine in a thread of its own, which is left
/// alone when `is_ending`.
fn unless(is_ending: &dyn Fn() -> bool, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let (send, done) = mpsc::channel();
    let work = move || {
        let _ = send.send(work());
    };
    let thread = std::thread::Builder::new().name("fetch".into()).spawn(work);
    thread.map_err(|source| Error::Folder { path: "a thread".into(), source })?;
    loop {
        match done.recv_timeout(LOOK) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Timeout) if !is_ending() => {}
            Err(_) => return Err(Error::Ending),
        }
    }
}

/// Fetches a package into a file, which is in `folder`.
fn download(url: &str, mut file: File, folder: &Path, limits: &FetchLimits) -> Result<()> {
    let failed = |problem: String| Error::Fetch { url: shown(url), problem };
    let deadline = later(Instant::now(), limits.time);
    let response = answer(url, limits, deadline).map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        return Err(failed(format!("the server answers {status}")));
    }
    let body = response.into_body();
    // Before a server that says so and sends nothing is waited for.
    if body.content_length().is_some_and(|length| length > limits.size) {
        return Err(failed(larger_than(limits.size)));
    }
    let (mut body, mut size) = (body.into_reader(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        let count = match body.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) => return Err(failed(error.to_string())),
        };
        size += count as u64;
        if size > limits.size {
            return Err(failed(larger_than(limits.size)));
        }
        file.write_all(&piece[..count]).map_err(|source| Error::Folder { path: folder.to_owned(), source })?;
    }
}

/// Asks for a package; follows redirections, which lead to a web server or
/// nowhere.
fn answer(url: &str, limits: &FetchLimits, deadline: Instant) -> Result<Response<Body>, String> {
    let is_https = url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
    let config = Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .max_redirects(0)
        .max_redirects_will_error(false)
        // A server may end a connection after its answer.
        .max_idle_connections(0)
        .http_status_as_error(false)
        // No redirection takes the certificate's protection away.
        .https_only(is_https);
    // A proxy would connect to addresses that cannot be looked at here.
    let config = if limits.allows_private { config } else { config.proxy(None) };
    #[cfg(feature = "https")]
    let config = if is_https { config.tls_config(crate::tls::client()?) } else { config };
    let config = config.build();
    let resolver = Guarded { allows_private: limits.allows_private, inner: DefaultResolver::default() };
    let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
    let mut url = url.to_owned();
    for _ in 0..=REDIRECTIONS {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = agent.get(&url).config().timeout_global(Some(left)).build();
        let response = request.call().map_err(|error| reason(&error))?;
        let location = response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection());
        let Some(location) = location else { return Ok(response) };
        url = redirected(&url, &String::from_utf8_lossy(location.as_bytes()))?;
    }
    Err(format!("it redirects more than {REDIRECTIONS} times"))
}

/// Returns where a redirection leads.
///
/// # Errors
/// It is no address of a web server.
fn redirected(from: &str, location: &str) -> Result<String, String> {
    let refuse = |problem: &str| Err(format!("it redirects to {}, {problem}", refused(location)));
    let to = match scheme(location).map(|(scheme, _)| scheme) {
        Some(scheme) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => location.to_owned(),
        Some(_) => return refuse("and only what begins with http:// or https:// is fetched"),
        None => joined(from, location),
    };
    if is_address(&to) { Ok(to) } else { refuse("which is no address") }
}

/// Returns the URL that a location without a scheme stands for.
fn joined(from: &str, location: &str) -> String {
    let (scheme, rest) = from.split_once("://").unwrap_or(("http", from));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if location.starts_with("//") {
        return format!("{scheme}:{location}");
    }
    if location.starts_with('/') {
        return format!("{scheme}://{host}{location}");
    }
    if location.is_empty() || location.starts_with('?') {
        return format!("{scheme}://{host}{path}{location}");
    }
    let mut parts: Vec<_> = path.split('/').collect();
    parts.pop();
    for part in location.split('/') {
        match part {
            "." => {}
            // The host is followed by a slash.
            ".." if parts.len() > 1 => drop(parts.pop()),
            ".." => {}
            part => parts.push(part),
        }
    }
    format!("{scheme}://{host}/{}", parts.join("/").trim_start_matches('/'))
}

fn reason(error: &ureq::Error) -> String {
    #[cfg(feature = "https")]
    if let Some(reason) = crate::tls::reason(error) {
        return reason;
    }
    match error {
        // They have the URL in them.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => "it is no address".into(),
        ureq::Error::RequireHttpsOnly(_) => "it redirects to an address without TLS".into(),
        ureq::Error::Other(inner) => inner.to_string(),
        ureq::Error::HostNotFound => "there is no machine of this name".into(),
        error => error.to_string(),
    }
}

/// Finds the addresses of names, and refuses those that a stranger's URL must
/// not reach, also behind a redirection.
#[derive(Debug)]
struct Guarded {
    allows_private: bool,
    inner: DefaultResolver,
}

impl Resolver for Guarded {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = self.inner.resolve(uri, config, timeout)?;
        if let Some(private) = addresses.iter().find(|address| !self.allows_private && is_private(address.ip())) {
            let text =
                format!("{} is an address of this machine or of a private network, which is not allowed", private.ip());
            return Err(ureq::Error::Other(text.into()));
        }
        Ok(addresses)
    }
}

/// Returns whether an address is of this machine, or of a network that is not
/// public.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_multicast()
        || first == 0
        // Shared by providers, for benchmarks, and reserved.
        || (first == 100 && (64..128).contains(&second))
        || (first == 198 && (18..20).contains(&second))
        || first >= 240
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let embedded = |high: u16, low: u16| is_private_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    let segments = address.segments();
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        // Translated and tunnelled IPv4 addresses.
        || (first == 0x64 && second == 0xff9b && embedded(segments[6], segments[7]))
        || (first == 0x2002 && embedded(segments[1], segments[2]))
        || (first == 0 && segments[1..6] == [0; 5])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_schemes_are_understood() {
        assert_eq!(Origin::parse("a b.zip").unwrap(), Origin::File("a b.zip".into()));
        assert_eq!(Origin::parse("file:///tmp/a%20b.zip").unwrap(), Origin::File("/tmp/a b.zip".into()));
        assert_eq!(Origin::parse("http://h:80/p.zip").unwrap(), Origin::Url("http://h:80/p.zip".into()));
        for url in ["http://h/p.zip", "HTTP://u:p@h:1/", "http://[::1]:80/p.zip", "http://[::1]", "http://h?x"] {
            assert_eq!(Origin::parse(url).unwrap(), Origin::Url(url.into()));
        }
        assert_eq!(Origin::parse("./data:x.zip").unwrap(), Origin::File("./data:x.zip".into()));
        for (text, problem) in [
            ("", "is empty"),
            ("file://host/p.zip", "names another machine"),
            ("file:///a%zz", "has an escape"),
            ("file:///a%00", "has an escape"),
            ("file:///a%e9", "has an escape"),
            ("file:/p.zip", "a file URL begins with file:///"),
            ("ftp://h/p.zip", "has a scheme"),
            ("javascript:alert(1)", "has a scheme"),
            ("data:application/zip;base64,UEs=", "has a scheme"),
            ("http:h/p.zip", "is no address"),
            ("http://", "is no address"),
            ("http://h:p/x.zip", "is no address"),
            ("http://u:p@h:99999/x.zip", "is no address"),
            ("http://u@:80/x.zip", "is no address"),
            ("http:// h/", "is no address"),
            ("https://", if cfg!(feature = "https") { "is no address" } else { "needs TLS" }),
        ] {
            let error = Origin::parse(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_in_urls_are_not_shown() {
        for (url, said) in [
            ("http://user:pass@word@h/p@q.zip", "http://…@h/p@q.zip"),
            ("http://h/p@q.zip", "http://h/p@q.zip"),
            ("https://h:1/p.zip?token=abc", "https://h:1/p.zip?…"),
            ("https://u:p@h?token=a/b@c", "https://…@h?…"),
            ("https://h/p.zip#abc", "https://h/p.zip?…"),
        ] {
            assert_eq!(Origin::Url(url.into()).to_string(), said);
        }
        for (text, said) in [
            ("ftp://u:pass@h/p.zip?token=abc", "ftp://…@h/p.zip?…"),
            ("http://u:pa/ss@h/p.zip", "http://…@h/p.zip"),
            ("http:/u:pass@h/p.zip", "http:/…@h/p.zip"),
            ("http://u:pass@/p?x#y@z", "http://…@z"),
            ("u:pass@h/p.zip", "u:…@h/p.zip"),
            ("//u:pass@h/p.zip", "//…@h/p.zip"),
            ("_u:pass@h/p.zip", "…@h/p.zip"),
            ("file://host/a@b.zip", "file://host/a@b.zip"),
            ("/a@b?.zip", "/a@b?.zip"),
        ] {
            assert_eq!(refused(text), said);
        }
        for text in ["ftp://u:secret@h/p.zip?token=secret", "http://u:sec/secret@", "http:u:secret@h"] {
            let error = Origin::parse(text).unwrap_err().to_string();
            assert!(!error.contains("sec"), "{error}");
        }
        let redirects = redirected("http://h/", "ftp://u:pass@h/p.zip?token=abc").unwrap_err();
        assert!(redirects.starts_with("it redirects to ftp://…@h/p.zip?…, "), "{redirects}");
    }

    #[test]
    fn a_redirection_leads_to_a_web_server() {
        let from = "http://h:80/a/b.zip?c/d";
        for (location, to) in [
            ("https://i/p.zip", "https://i/p.zip"),
            ("HTTP://i/p.zip", "HTTP://i/p.zip"),
            ("//i/p.zip", "http://i/p.zip"),
            ("/p.zip?x=y:z", "http://h:80/p.zip?x=y:z"),
            ("p.zip", "http://h:80/a/p.zip"),
            ("./../../p:q.zip", "http://h:80/p:q.zip"),
            ("?e", "http://h:80/a/b.zip?e"),
        ] {
            assert_eq!(redirected(from, location).unwrap(), to, "{location}");
        }
        assert_eq!(redirected("http://h", "p.zip").unwrap(), "http://h/p.zip");
        for location in ["file:///etc/passwd", "file:/etc/passwd", "FILE:x", "ftp://h/p.zip", "data:,x", "javascript:x"]
        {
            let refused = redirected(from, location).unwrap_err();
            let said = format!("it redirects to {location}, and only what begins with http:// or https:// is fetched");
            assert_eq!(refused, said);
        }
        for location in ["http://", "https:p.zip", "//", "a b", "\n"] {
            assert!(redirected(from, location).unwrap_err().ends_with(", which is no address"), "{location}");
        }
    }

    #[test]
    fn private_addresses_are_known_in_every_form() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
            "198.18.0.1",
            "240.0.0.1",
        ] {
            assert!(is_private(text.parse().unwrap()), "{text}");
        }
        for text in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::"] {
            assert!(!is_private(text.parse().unwrap()), "{text}");
        }
    }
}
