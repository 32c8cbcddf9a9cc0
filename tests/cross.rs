//! Would `cross` build and test for ARM from this tree?
//!
//! Read from `cross.toml` and the image's Dockerfile; neither `cross` nor Docker is needed. `cross` ignores a file of the
//! wrong name and only warns of keys that it does not know, so a mistake there shows much later, as a missing linker or as
//! tests that nobody ran. The checker is itself checked: every rule has a bad text that it must refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// What is built and tested, and which package brings its compiler and linker.
const TARGETS: [(&str, &str); 3] = [
    ("aarch64-unknown-linux-gnu", "gcc-aarch64-linux-gnu"),
    ("aarch64-unknown-linux-musl", "musl-dev:arm64"),
    ("armv7-unknown-linux-gnueabihf", "gcc-arm-linux-gnueabihf"),
];

/// Keys that cross 0.2.5 and its main branch both know; `*` is one name. Of others both warn, and main then gives up in CI.
const KEYS: [&str; 17] = [
    "build.build-std",
    "build.default-target",
    "build.dockerfile.build-args.*",
    "build.dockerfile.context",
    "build.dockerfile.file",
    "build.env.passthrough",
    "build.env.volumes",
    "build.pre-build",
    "target.*.build-std",
    "target.*.dockerfile.build-args.*",
    "target.*.dockerfile.context",
    "target.*.dockerfile.file",
    "target.*.env.passthrough",
    "target.*.env.volumes",
    "target.*.image",
    "target.*.pre-build",
    "target.*.runner",
];

/// What the image must have besides compilers: emulators, a broker and its clients, and what makes faults.
const PACKAGES: [&str; 7] =
    ["qemu-user-static", "mosquitto", "mosquitto-clients", "strace", "nftables", "iproute2", "libc6-dev"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

// === cross.toml ===

/// Paths of all values of a table that are no tables, with dots between the names.
fn leaves(prefix: &str, value: &Value, found: &mut Vec<String>) {
    let Value::Table(table) = value else {
        return found.push(prefix.to_owned());
    };
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        leaves(&path, value, found);
    }
}

fn is_known(key: &str) -> bool {
    KEYS.iter().any(|known| {
        let (known, key): (Vec<&str>, Vec<&str>) = (known.split('.').collect(), key.split('.').collect());
        known.len() == key.len() && known.iter().zip(&key).all(|(known, key)| *known == "*" || known == key)
    })
}

/// What is wrong with the text of `cross.toml`; files that it names are looked for below `root`.
fn faults_of_config(text: &str, root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let first = text.lines().next().unwrap_or_default();
    if !(first.starts_with("# cross test ") && first.contains("--target ") && first.contains("Cross.toml")) {
        faults.push(format!("the first line is not the command and why it works: {first}"));
    }
    let config: Table = match toml::from_str(text) {
        Ok(config) => config,
        Err(error) => return vec![error.to_string()],
    };
    let mut keys = Vec::new();
    leaves("", &Value::Table(config.clone()), &mut keys);
    faults.extend(keys.iter().filter(|key| !is_known(key)).map(|key| format!("cross does not know {key}")));

    let no_targets = Table::new();
    let targets = config.get("target").and_then(Value::as_table).unwrap_or(&no_targets);
    let named: BTreeSet<&str> = targets.keys().map(String::as_str).collect();
    let wanted: BTreeSet<&str> = TARGETS.iter().map(|(target, _)| *target).collect();
    if named != wanted {
        faults.push(format!("the targets are {named:?}, not {wanted:?}"));
    }
    for (target, settings) in targets {
        let named = |key: &str| Some(settings.get("dockerfile")?.get(key)?.as_str()?.to_owned());
        // cross 0.2.5 hands both to Docker as they are, relative to the workspace.
        if !named("file").is_some_and(|file| root.join(file).is_file()) {
            faults.push(format!("{target}: there is no Dockerfile {:?}", named("file")));
        }
        if !named("context").is_some_and(|folder| root.join(folder).is_dir()) {
            faults.push(format!("{target}: there is no folder {:?} to build in", named("context")));
        }
    }
    if text.lines().any(|line| !line.starts_with('#') && line.contains("CROSS_RUNNER")) {
        faults.push("cross refuses to pass CROSS_RUNNER on".to_owned());
    }
    faults
}

// === The image ===

/// What of a Dockerfile matters here.
#[derive(Default)]
struct Image {
    base: String,
    packages: BTreeSet<String>,
    environment: BTreeMap<String, String>,
    /// Where the files of the context come to lie, with where they come from.
    files: BTreeMap<PathBuf, PathBuf>,
}

impl Image {
    fn read(text: &str, context: &Path) -> Self {
        let mut image = Self::default();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        for line in code.join("\n").replace("\\\n", " ").lines() {
            let Some((instruction, rest)) = line.trim().split_once(' ') else { continue };
            match instruction {
                "FROM" => rest.trim().clone_into(&mut image.base),
                "RUN" => rest.split("&&").for_each(|command| image.packages.extend(installed(command))),
                "ENV" => image.environment.extend(assignments(rest)),
                "COPY" => {
                    let mut names: Vec<&str> = rest.split_whitespace().collect();
                    let folder = PathBuf::from(names.pop().unwrap_or_default());
                    image.files.extend(names.iter().map(|name| (folder.join(name), context.join(name))));
                }
                _ => {}
            }
        }
        image
    }
}

/// The packages that a command installs.
fn installed(command: &str) -> Vec<String> {
    let mut words = command.split_whitespace().skip_while(|word| *word != "apt-get");
    if words.nth(1) != Some("install") {
        return Vec::new();
    }
    words.take_while(|word| *word != "#").filter(|word| !word.starts_with('-')).map(str::to_owned).collect()
}

/// `A=b C="d e"` as pairs.
fn assignments(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while let Some((name, value)) = rest.split_once('=') {
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_once(char::is_whitespace).unwrap_or((value, "")),
        };
        pairs.push((name.to_owned(), value.to_owned()));
        rest = after.trim_start();
    }
    pairs
}

/// What is wrong with the text of a Dockerfile whose context is `context`.
fn faults_of_image(text: &str, context: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let image = Image::read(text, context);
    // The libraries of Ubuntu 16.04, on which cross's own images of 0.2.5 stand, are older than Mosquitto with MQTT 5.
    if !image.base.starts_with("debian:") {
        faults.push(format!("the image stands on {:?}, not on Debian", image.base));
    }
    let compilers = TARGETS.iter().map(|(_, package)| package);
    for package in PACKAGES.iter().chain(compilers).filter(|package| !image.packages.contains(**package)) {
        faults.push(format!("{package} is not installed"));
    }
    for (target, _) in TARGETS {
        let name = target.replace('-', "_");
        let cargo = |what: &str| format!("CARGO_TARGET_{}_{what}", name.to_uppercase());
        for key in [cargo("LINKER"), format!("CC_{name}")] {
            let compiler = image.environment.get(&key).map(String::as_str).unwrap_or_default();
            let family = if target.starts_with("aarch64") { "aarch64-linux-" } else { "arm-linux-gnueabihf-" };
            if !(compiler.starts_with(family) && compiler.ends_with("gcc")) {
                faults.push(format!("{key} is {compiler:?}, no compiler for {target}"));
            }
        }
        let runner = image.environment.get(&cargo("RUNNER")).map(String::as_str).unwrap_or_default();
        let (program, emulated) = runner.split_once(' ').unwrap_or_default();
        if !image.files.contains_key(Path::new(program)) {
            faults.push(format!("the runner of {target} is {program:?}, which no COPY brings"));
        }
        if emulated != target {
            faults.push(format!("the runner of {target} emulates {emulated:?}"));
        }
    }
    let absent = image.files.values().filter(|file| !file.is_file());
    faults.extend(absent.map(|file| format!("COPY of {}, which is not there", file.display())));
    faults
}

// === The tree ===

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("a file of the tree can be read")
}

#[test]
fn cross_finds_its_configuration_by_the_name_that_it_looks_for() {
    // The link's own text: a copy would be forgotten, an absolute path would be wrong elsewhere.
    let link = fs::read_link(root().join("Cross.toml")).expect("Cross.toml is a link");
    assert_eq!(link, Path::new("cross.toml"));
    assert!(!fs::symlink_metadata(root().join("cross.toml")).unwrap().is_symlink(), "one of the two is the file");
}

#[test]
fn the_three_targets_and_nothing_that_cross_does_not_know_are_configured() {
    assert_eq!(faults_of_config(&read("cross.toml"), root()), Vec::<String>::new());
}

#[test]
fn the_image_has_linker_compiler_runner_and_broker_for_every_target() {
    let faults = faults_of_image(&read("tests/arm/Dockerfile"), &root().join("tests/arm"));
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn the_runner_of_the_image_knows_every_target() {
    let runner = read("tests/arm/emulated");
    for (target, _) in TARGETS {
        let (architecture, _) = target.split_once('-').unwrap();
        assert!(runner.contains(&format!("\n  {architecture}-*)")), "tests/arm/emulated has no case for {target}");
    }
}

// === The checker ===

/// Every change of a good text must be found, and by its own words.
fn refuses(text: &str, faults: impl Fn(&str) -> Vec<String>, changes: &[(&str, &str, &str)]) {
    for (from, to, words) in changes {
        assert!(text.contains(from), "the text has no {from:?} to change");
        let found = faults(&text.replacen(from, to, 1));
        assert!(found.iter().any(|fault| fault.contains(words)), "{from:?} as {to:?}: {found:?}");
    }
}

#[test]
fn a_bad_configuration_is_found() {
    refuses(
        &read("cross.toml"),
        |text| faults_of_config(text, root()),
        &[
            ("# cross test", "# Builds for ARM", "first line"),
            ("Cross.toml, a link", "it, a link", "first line"),
            ("[target.armv7-unknown-linux-gnueabihf.dockerfile]", "[target.armv7.dockerfile]", "the targets are"),
            ("[build.env]", "[target.i686-unknown-linux-gnu]\nimage = \"i\"\n[build.env]", "the targets are"),
            ("passthrough", "pass-through", "cross does not know build.env.pass-through"),
            ("[build.env]", "[build]\nxargo = false\n[build.env]", "cross does not know build.xargo"),
            ("context =", "folder =", "cross does not know target.aarch64-unknown-linux-gnu.dockerfile.folder"),
            ("context =", "folder =", "no folder None"),
            ("context = \"tests/arm\"", "context = \"tests/legs\"", "no folder Some(\"tests/legs\")"),
            ("file = \"tests/arm/Dockerfile\"", "file = \"tests/arm\"", "no Dockerfile Some(\"tests/arm\")"),
            ("\"RUST_LOG\"", "\"CROSS_RUNNER\"", "refuses to pass CROSS_RUNNER"),
            ("[build.env]", "[build.env", "parse"),
        ],
    );
}

#[test]
fn a_bad_image_is_found() {
    let context = root().join("tests/arm");
    refuses(
        &read("tests/arm/Dockerfile"),
        |text| faults_of_image(text, &context),
        &[
            ("FROM debian:", "FROM ubuntu:", "not on Debian"),
            (" mosquitto ", " ", "mosquitto is not installed"),
            (" mosquitto ", " # mosquitto ", "mosquitto is not installed"),
            ("qemu-user-static", "qemu-user", "qemu-user-static is not installed"),
            ("gcc-arm-linux-gnueabihf", "gcc", "gcc-arm-linux-gnueabihf is not installed"),
            ("apt-get install", "apt-get download", "strace is not installed"),
            ("MUSL_LINKER=", "MUSL_LD=", "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER is \"\""),
            (
                "CC_armv7_unknown_linux_gnueabihf=arm-linux-gnueabihf-gcc",
                "CC_armv7_unknown_linux_gnueabihf=gcc",
                "no compiler",
            ),
            ("GNU_RUNNER=\"/opt/neap/emulated", "GNU_RUNNER=\"/linux-runner", "which no COPY brings"),
            (
                "emulated aarch64-unknown-linux-musl",
                "emulated aarch64",
                "the runner of aarch64-unknown-linux-musl emulates",
            ),
            ("GNUEABIHF_RUNNER", "GNUEABI_RUNNER", "the runner of armv7-unknown-linux-gnueabihf"),
            ("COPY emulated ", "COPY emulated simulated ", "simulated, which is not there"),
        ],
    );
}
