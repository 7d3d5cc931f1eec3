//! The plugin's executable: whether eKuiper can run it, and in which of its
//! images.

use std::fs;
use std::path::Path;

use ekuiper_core::description::Description;
use ekuiper_host::{Language, Package};

use super::file;
use super::images::{IMAGES, Image};
use super::program::{Library, Native, Processor, Program};
use super::report::{Area, Report};

/// Checks the executable. Returns why this machine may be none that starts it,
/// although others do; only a start shows whether that is so.
pub(super) fn check(package: &Package, is_project: bool, report: &mut Report) -> Option<String> {
    let executable = &package.manifest.executable;
    let path = package.program.clone().unwrap_or_else(|| package.folder.join(executable));
    let program = match fs::symlink_metadata(&path) {
        Err(_) => Err(("does not exist".to_owned(), "put it there, or correct \"executable\" in the manifest")),
        Ok(_) if package.manifest.language == Language::Python => return check_python(package, &path, report),
        Ok(_) => Program::read(&path),
    };
    match program {
        Err((problem, advice)) => {
            report.error(Area::Program, executable, problem, advice);
            None
        }
        Ok(Program::Script { interpreter, argument }) => {
            let words = format!("{interpreter} {argument}");
            let words = words.trim();
            report.fact(Area::Program, format!("a script for {words}"));
            let images = IMAGES.iter().filter(|image| image.has_interpreter(&interpreter, &argument));
            told(images.map(|image| image.name.to_owned()).collect(), report);
            if report.images.as_ref().is_some_and(Vec::is_empty) {
                let text = format!("is run by {words}, which none of eKuiper's images has");
                report.warning(Area::Images, executable, text, "use an interpreter that is there, such as /bin/sh");
            }
            None
        }
        Ok(Program::Native(native)) => {
            report.fact(Area::Program, format!("for linux/{}, {}", native.processor.name(), native.library.words()));
            if is_project {
                let text = "`ekuiper-plugin package` builds a static program, which runs in all of them";
                report.fact(Area::Images, text);
            } else {
                check_native(package, &native, report);
            }
            foreign(&native)
        }
    }
}

/// The processor that a native program is built for.
pub(super) fn processor(package: &Package) -> Option<&'static str> {
    match Program::read(&package.folder.join(&package.manifest.executable)) {
        Ok(Program::Native(native)) => Some(native.processor.name()),
        _ => None,
    }
}

fn told(images: Vec<String>, report: &mut Report) {
    report.fact(Area::Images, if images.is_empty() { "it runs in none".into() } else { images.join(", ") });
    report.images = Some(images);
}

/// Reports in which images the program runs.
fn check_native(package: &Package, native: &Native, report: &mut Report) {
    let packaged = |name: &str| has_file(&package.folder, name, 4);
    let refusals = IMAGES.each_ref().map(|image| image.refuses(native, packaged));
    let fitting = IMAGES.iter().zip(&refusals).filter(|(_, refusal)| refusal.is_none());
    told(fitting.map(|(image, _)| image.for_processor(native.processor)).collect(), report);
    let [Some(reason), others @ ..] = &refusals else { return };
    let executable = &package.manifest.executable;
    let advice = "build it statically: `ekuiper-plugin package` does so for a Cargo project, CGO_ENABLED=0 for Go";
    match others.iter().flatten().count() == others.len() {
        true => {
            let reason = refusals.iter().flatten().last().unwrap_or(reason);
            let text = format!("runs in none of eKuiper's images: {reason}");
            report.warning(Area::Images, executable, text, advice);
        }
        false => {
            let text = format!("does not start in eKuiper's default image, {}: {reason}", IMAGES[0].name);
            report.warning(Area::Images, executable, text, advice);
        }
    }
}

/// Whether there is a file of this name in the folder, or a few levels below.
fn has_file(folder: &Path, name: &str, levels: usize) -> bool {
    folder.join(name).is_file()
        || levels > 0
            && fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
                entry.file_type().is_ok_and(|kind| kind.is_dir()) && has_file(&entry.path(), name, levels - 1)
            })
}

/// Why this machine may be none that starts the program.
fn foreign(native: &Native) -> Option<String> {
    if native.processor != Processor::own() {
        return Some(format!(
            "it is built for {}, and this machine is {}",
            native.processor.name(),
            Processor::own().name()
        ));
    }
    let missing = native.library.loader().filter(|loader| !Path::new(loader).exists())?;
    let library = if matches!(native.library, Library::Musl { .. }) { "musl" } else { "its C library" };
    Some(format!("this machine has not {library} ({missing})"))
}

fn check_python(package: &Package, path: &Path, report: &mut Report) -> Option<String> {
    let executable = &package.manifest.executable;
    let start = match file::read(path, file::PROGRAM) {
        Ok(bytes) => bytes,
        Err(problem) => {
            report.error(Area::Program, executable, problem, "name the script in the manifest's \"executable\"");
            return None;
        }
    };
    if start.starts_with(b"\x7fELF") || start.starts_with(b"MZ") {
        let text = "is a native program, and the manifest says \"language\": \"python\"";
        report.error(
            Area::Program,
            executable,
            text,
            "write \"language\": \"go\", which stands for any native program",
        );
        return None;
    }
    if start.is_empty() {
        report.error(Area::Program, executable, "is empty", "name the script in the manifest's \"executable\"");
        return None;
    }
    report.fact(Area::Program, "a Python script");
    let has_requirements = package.folder.join("requirements.txt").is_file();
    if has_requirements && !package.manifest.is_venv() && !package.folder.join("install.sh").is_file() {
        report.note(
            Area::Install,
            "requirements.txt",
            "is not read by eKuiper: the packages must be in the Python that it runs",
            "add an install.sh that installs them, or an image of your own",
        );
    }
    None
}

/// Reports the images in which a Python plugin runs, once its SDK is known.
pub(super) fn check_python_images(package: &Package, described: Option<&Description>, report: &mut Report) {
    if package.manifest.language != Language::Python {
        return;
    }
    let is_ours = described.is_some();
    let name = |image: &Image| match (image.has_module, is_ours) {
        (true, false) => image.name.to_owned(),
        (_, true) => format!("{} (once ekuiper-rs is installed there)", image.name),
        (false, false) => format!("{} (once the module ekuiper is installed there)", image.name),
    };
    told(IMAGES.iter().filter(|image| image.has_python).map(name).collect(), report);
}
