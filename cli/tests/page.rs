//! The page of `serve`, driven in a real browser. Skipped, loudly, where there
//! is no Chromium; continuous integration has it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headless_chrome::protocol::cdp::Emulation::{MediaFeature, SetDeviceMetricsOverride, SetEmulatedMedia};
use headless_chrome::protocol::cdp::Input::{DispatchDragEvent, DispatchDragEventTypeOption as DragEvent, DragData};
use headless_chrome::protocol::cdp::Page::CaptureScreenshotFormatOption;
use headless_chrome::{Browser, LaunchOptions, Tab};
use serde_json::Value;
use support::Bench;
use support::served::{Server, package};

/// Maximum time of what the page does, before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the browser's program, if there is one.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)).collect::<Vec<_>>())
        .find(|program| program.exists());
    if found.is_none() {
        let text = "the page in a browser: there is no chromium (Debian: chromium)";
        assert!(std::env::var_os("CI").is_none(), "{text}");
        let _ = writeln!(std::io::stderr(), "SKIPPED: {text}");
    }
    found
}

/// A tab that shows the page of a server.
struct Page {
    tab: Arc<Tab>,
    _browser: Browser,
    _profile: tempfile::TempDir,
}

impl Page {
    fn open(program: PathBuf, server: &Server) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Small machines and containers have little shared memory.
        let arguments = ["--disable-dev-shm-usage"].map(OsStr::new).to_vec();
        let options = LaunchOptions::default_builder()
            .path(Some(program))
            // Root has no use for it, and containers may not allow it.
            .sandbox(false)
            .user_data_dir(Some(profile.path().to_owned()))
            .args(arguments)
            .idle_browser_timeout(Duration::from_secs(600))
            .build()
            .unwrap();
        let browser = Browser::new(options).unwrap();
        let tab = browser.new_tab().unwrap();
        tab.set_default_timeout(PATIENCE);
        tab.navigate_to(&format!("http://{}/", server.address)).unwrap();
        tab.wait_until_navigated().unwrap();
        Self { tab, _browser: browser, _profile: profile }
    }

    fn evaluate(&self, script: &str) -> Value {
        self.tab.evaluate(script, true).unwrap().value.unwrap_or_default()
    }

    fn text(&self, selector: &str) -> String {
        let text = self.evaluate(&format!("document.querySelector({selector:?})?.textContent ?? ''"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an element's text has this in it; returns the text.
    fn await_text(&self, selector: &str, part: &str) -> String {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let text = self.text(selector);
            if text.contains(part) {
                return text;
            }
            assert!(Instant::now() < give_up, "{selector} says {text:?}, and not {part:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn click(&self, selector: &str) {
        self.tab.wait_until_visible(selector).unwrap().click().unwrap();
    }

    fn write(&self, selector: &str, text: &str) {
        self.click(selector);
        self.tab.type_str(text).unwrap();
    }

    /// Drags a file over the page, and drops it, as a person does.
    fn drop_file(&self, path: &Path) {
        let event = |kind| DispatchDragEvent {
            Type: kind,
            x: 200.0,
            y: 200.0,
            data: DragData {
                items: Vec::new(),
                files: Some(vec![path.display().to_string()]),
                drag_operations_mask: 1,
            },
            modifiers: None,
        };
        self.tab.call_method(event(DragEvent::DragEnter)).unwrap();
        self.tab.call_method(event(DragEvent::DragOver)).unwrap();
        self.await_text("#drop:not([hidden])", "Drop the package");
        self.tab.call_method(event(DragEvent::Drop)).unwrap();
    }

    /// Opens what is done with a symbol.
    fn open_symbol(&self, kind: &str, name: &str) {
        self.click(&format!("[data-kind={kind}][data-symbol={name}]"));
    }

    /// Shows the page on a screen, and keeps a picture of it.
    fn picture(&self, name: &str, [width, height]: [u32; 2], scheme: &str) {
        let screen = SetDeviceMetricsOverride {
            width,
            height,
            device_scale_factor: 1.0,
            mobile: width < 600,
            scale: None,
            screen_width: None,
            screen_height: None,
            position_x: None,
            position_y: None,
            dont_set_visible_size: None,
            screen_orientation: None,
            viewport: None,
            display_feature: None,
            device_posture: None,
        };
        self.tab.call_method(screen).unwrap();
        let scheme = MediaFeature { name: "prefers-color-scheme".into(), value: scheme.into() };
        self.tab.call_method(SetEmulatedMedia { media: None, features: Some(vec![scheme]) }).unwrap();
        let hidden = self.evaluate("document.scrollingElement.scrollWidth - innerWidth");
        assert!(hidden.as_f64().unwrap() < 1.0, "{name}: {hidden} pixels are off the screen");
        // What of a table is off the screen has a sign of it, and nothing touches it.
        let script = "(table => [getComputedStyle(table).backgroundAttachment, table.tabIndex, \
                      table.nextSibling.getBoundingClientRect().top - table.getBoundingClientRect().bottom] \
                      .join())(document.querySelector('.table'))";
        let signs = self.evaluate(script);
        assert_eq!(signs, "local, local, scroll, scroll,0,12", "{name}");
        let picture = self.tab.capture_screenshot(CaptureScreenshotFormatOption::Png, None, None, true).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }
}

/// Writes a package under the plugin's name.
fn package_of_mirror(bench: &Bench, version: &str) -> PathBuf {
    package(bench, version);
    let path = bench.path().join("mirror.zip");
    std::fs::rename(bench.path().join(format!("{version}.zip")), &path).unwrap();
    path
}

#[test]
fn a_person_installs_a_plugin_uses_it_and_removes_it() {
    let Some(program) = chromium() else { return };
    let bench = Bench::new();
    let server = Server::start(&bench);
    let page = Page::open(program, &server);
    page.await_text("#summary", "none is installed");

    // What is no package is said, and nothing is installed.
    let garbage = bench.path().join("garbage.zip");
    std::fs::write(&garbage, "no zip").unwrap();
    page.drop_file(&garbage);
    page.await_text("#install-result", "garbage.zip");
    page.click("#install-button");
    page.await_text("#install-result.result-bad", "zip");
    assert_eq!(server.json("/plugins/portables"), serde_json::json!([]));

    page.drop_file(&package_of_mirror(&bench, "v1"));
    page.await_text("#install-result", "mirror.zip");
    page.click("#install-button");
    page.await_text("#install-result.result-good", "plugin mirror is installed");
    page.await_text("[data-plugin=mirror] .state", "running");

    page.open_symbol("function", "revert");
    page.write("#symbol-input", r#"["hello"]"#);
    page.click("#symbol-go");
    page.await_text("#symbol-output", "\"olleh\"");
    page.evaluate("document.getElementById('symbol-input').value = '[\"one\"]\\n[\"two\"]'");
    page.click("#symbol-go");
    page.await_text("#symbol-output", "owt");
    page.click("#symbol-close");

    let file = bench.path().join("rows");
    page.open_symbol("sink", "file");
    page.click("#symbol-go");
    page.await_text("#symbol-output", "missing field `path`");
    page.await_text("#log-lines .error", "missing field `path`");
    page.write("#symbol-settings", &format!(r#"{{"path": "{}"}}"#, file.display()));
    page.write("#symbol-input", r#"{"n": 1}"#);
    page.click("#symbol-go");
    page.await_text("#symbol-output", "acked");
    page.click("#symbol-close");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"n\":1}\n");

    page.open_symbol("source", "random");
    page.click("#symbol-go");
    page.await_text("#symbol-output", "\"count\":5");
    let figures = page.await_text("[data-plugin=mirror] table", "source random");
    assert!(figures.contains("function revert (http)"), "{figures}");
    page.click("#symbol-close");

    for (name, size) in [("wide", [1280, 900]), ("narrow", [400, 800]), ("narrowest", [360, 740])] {
        for scheme in ["light", "dark"] {
            page.picture(&format!("{name}-{scheme}"), size, scheme);
        }
    }
    page.open_symbol("source", "random");
    page.click("#symbol-go");
    page.await_text("#symbol-output", "\"count\":3");
    page.picture("narrow-source", [360, 740], "light");
    page.click("#symbol-close");

    page.drop_file(&package_of_mirror(&bench, "v2"));
    page.await_text("#install-button", "Update");
    page.click("#install-button");
    page.await_text("#install-result.result-good", "plugin mirror is updated");
    page.await_text("[data-plugin=mirror] .version", "v2");

    page.evaluate("window.confirm = () => true");
    page.click("[data-plugin=mirror] > button");
    page.await_text("#summary", "none is installed");
    assert_eq!(server.json("/plugins/portables"), serde_json::json!([]));
    server.end();
}
