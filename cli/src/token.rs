//! Tokens: what requests to `serve` must carry, and what those to an engine do.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ekuiper_manager::rest::Token;

use crate::args::TokenArguments;
use crate::console;
use crate::engine::random;
use crate::error::{Error, Result};

/// Maximum size of a token's file, in bytes.
const LARGEST: u64 = 64 << 10;

impl TokenArguments {
    /// The token that an engine wants, if its user has given one.
    ///
    /// # Errors
    /// [`Error::Token`].
    pub(crate) fn get(&self) -> Result<Option<String>> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let token = read(path).and_then(|token| token.ok_or_else(|| "is not there".to_owned()));
        token.map(Some).map_err(|problem| Error::Token { path: path.clone(), problem })
    }
}

/// Returns the token in a file, for `serve`. If the file is not there, a token is
/// made and written to it; the text to tell its user is returned, too.
///
/// # Errors
/// [`Error::Token`].
pub(crate) fn of_serve(path: &Path) -> Result<(Token, Option<String>)> {
    let failed = |problem: String| Error::Token { path: path.to_owned(), problem };
    if let Some(token) = read(path).map_err(failed)? {
        return Ok((Token::new(&token).map_err(failed)?, None));
    }
    let made = make(path).map_err(|problem| failed(format!("cannot be written: {problem}")))?;
    let told = format!("made a token, which is in {}: Authorization: Bearer {made}", path.display());
    Ok((Token::new(&made).map_err(failed)?, Some(told)))
}

/// Writes a new token to a file that only this user can read.
fn make(path: &Path) -> io::Result<String> {
    let made: String = random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(format!("{made}\n").as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // A part of a token is none.
        let _ = fs::remove_file(path);
    }
    written.map(|()| made)
}

/// Reads the token in a file; `None` if there is no file.
fn read(path: &Path) -> Result<Option<String>, String> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(|error| format!("cannot be read: {error}"))?,
    };
    // A pipe without a writer would hang this.
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err("is no file with a token".into());
    }
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    let token = text.trim();
    if token.is_empty() {
        return Err("is empty".into());
    }
    if token.contains(|letter: char| !(letter.is_ascii_graphic() || letter == ' ')) {
        return Err("has other characters than a token has, or several lines".into());
    }
    Ok(Some(token.to_owned()))
}

/// Tells of a token that was made.
pub(crate) fn tell(made: Option<String>) {
    made.iter().for_each(console::tell);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_read_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let (_, told) = of_serve(&path).unwrap();
        let told = told.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.trim().len() == 64 && told.ends_with(&format!("Bearer {}", text.trim())), "{told}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(of_serve(&path).unwrap().1.is_none());
        let arguments = TokenArguments { token: Some("other".into()), token_file: Some(path) };
        assert_eq!(arguments.get().unwrap().as_deref(), Some(text.trim()));
    }

    #[test]
    fn files_without_a_token_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (content, said) in [
            (&b" \n"[..], "is empty"),
            (b"one\ntwo\n", "several lines"),
            (b"\xff\xff", "cannot be read: "),
            (b"short", "has 5 characters"),
        ] {
            fs::write(&path, content).unwrap();
            let error = of_serve(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(of_serve(folder.path()).unwrap_err().to_string().contains("is no file with a token"));
        let absent = TokenArguments { token: None, token_file: Some(folder.path().join("none")) };
        assert!(absent.get().unwrap_err().to_string().ends_with("none is not there"));
    }
}
