//! Is what is shipped whole, the same every time, and all that a node needs?
//!
//! Archives and images of a small program are made and looked at always; with `NEAP_ARTIFACTS=FOLDER` those in that folder
//! (what `packaging/build` made) as well, and the binaries in them run in a root file system that has nothing else. What is
//! for ARM runs under qemu-user.

#[path = "support/elf.rs"]
mod elf;
#[path = "support/image_layout.rs"]
mod image_layout;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A commit's time, for everything that is packed here.
const EPOCH: &str = "1700000000";
const EPOCH_READ: &str = "2023-11-14 22:13:20";
const EM_ARM: u64 = 40;
const EM_AARCH64: u64 = 183;
/// In namespaces of its own: a root file system with /proc and nothing else that the kernel gives, no device either, and,
/// with a second argument, an emulator for what is started there. It is opened before the root changes and need not be in
/// there.
const IN_ROOT: &str = r#"
set -e
mkdir -p "$1/proc"
mount --rbind /proc "$1/proc"
if [ -n "$2" ]; then
  mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
  printf %s "$2" >/proc/sys/fs/binfmt_misc/register
fi
root=$1
shift 2
exec chroot "$root" "$@"
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn skip(why: &str) {
    eprintln!("\n!!! SKIPPED: {why} !!!\n");
}

/// Runs a program that may be missing; `None`, said loudly, when it is.
fn run(package: &str, command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            let missing = format!("{:?} cannot be started ({error}): apt-get install {package}", command.get_program());
            assert!(
                std::env::var("CI").as_deref() != Ok("true") || package == "umoci" || package == "skopeo",
                "{missing}"
            );
            skip(&missing);
            None
        }
    }
}

fn succeeded(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// A program that stands for the agent: static, or asking for a loader.
fn small_program(folder: &Path, name: &str, flags: &[&str]) -> Option<PathBuf> {
    fs::write(folder.join("small.c"), "int main(void) { return 0; }\n").expect("a file can be written");
    let mut cc = Command::new("cc");
    succeeded(&run("gcc libc6-dev", cc.current_dir(folder).args(["-s", "small.c", "-o", name]).args(flags))?);
    Some(folder.join(name))
}

fn packaging(script: &str, arguments: &[&Path]) -> Command {
    let mut command = Command::new("python3");
    command.arg(root().join("packaging").join(script)).args(arguments).env("SOURCE_DATE_EPOCH", EPOCH);
    command
}

/// This machine's target as far as something is shipped for it.
fn target(program: &Path) -> Option<&'static str> {
    let elf = elf::read(&fs::read(program).expect("a program can be read")).expect("a program");
    match elf.machine {
        (62, true) => Some("x86_64-unknown-linux-gnu"),
        (EM_AARCH64, true) => Some("aarch64-unknown-linux-gnu"),
        (EM_ARM, false) => Some("armv7-unknown-linux-gnueabihf"),
        _ => None,
    }
}

fn unpack(archive: &Path, folder: &Path) {
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive).args(["--strip-components=1", "-C"]).arg(folder);
    succeeded(&tar.output().expect("tar can be started"));
}

// ---- the build ----

#[test]
fn a_build_that_fails_ships_nothing_not_even_what_an_earlier_one_left() {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (tools, build, output) =
        (folder.path().join("tools"), folder.path().join("build"), folder.path().join("output"));
    let left = build.join(TARGET).join("dist/neap");
    let library = build.join(TARGET).join("dist/build/ring-0/out/libring_core.a");
    for file in [&left, &library, &tools.join("cargo")] {
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder can be made");
    }
    fs::write(&left, "what an earlier build left").expect("a file can be written");
    fs::write(&library, "__stack_chk_fail").expect("a file can be written");
    let version =
        include_str!("../packaging/recipe").lines().find_map(|line| line.strip_prefix("readonly AUDITABLE_VERSION="));
    let cargo = format!(
        "#!/bin/sh\n[ \"$2\" != --version ] || {{ echo cargo-auditable {}; exit 0; }}\necho no compiler >&2\nexit 3\n",
        version.expect("the recipe names a version")
    );
    fs::write(tools.join("cargo"), cargo).expect("a file can be written");
    fs::set_permissions(tools.join("cargo"), fs::Permissions::from_mode(0o755)).expect("a mode can be set");

    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command.arg(root().join("packaging/build")).arg(TARGET).arg(&output).env("PATH", path);
    let Some(told) = run("bash", command.env("CARGO_TARGET_DIR", &build)) else { return };
    let words = String::from_utf8_lossy(&told.stderr);
    assert_eq!(told.status.code(), Some(3), "{words}");
    assert!(words.contains("no compiler"), "{words}");
    assert_eq!(fs::read_dir(&output).expect("a folder").count(), 0, "nothing was shipped");
}

// ---- the archive ----

#[test]
fn one_binary_gives_one_archive_that_tells_nothing_of_who_packed_it() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let Some(program) = small_program(folder.path(), "small", &[]) else { return };
    let Some(target) = target(&program) else { return skip("nothing is shipped for this machine") };
    let pack = |name: &str, place: &Path| {
        let file = folder.path().join(name);
        let mut command = packaging("tarball", &[&program, Path::new(target), &file]);
        let output = run("python3", command.current_dir(place).env("TZ", "Asia/Tokyo"))?;
        succeeded(&output);
        Some(file)
    };
    let Some(first) = pack("first.tar.gz", Path::new("/")) else { return };
    let second = pack("second.tar.gz", folder.path()).expect("python3 is there");
    assert!(fs::read(&first).expect("an archive") == fs::read(&second).expect("an archive"), "the same bytes");

    let mut tar = Command::new("tar");
    tar.args(["--list", "--verbose", "--numeric-owner", "--full-time", "--gzip", "--file"])
        .arg(&first)
        .env("TZ", "UTC");
    let list = succeeded(&tar.output().expect("tar can be started"));
    let mut names: Vec<&str> = Vec::new();
    for line in list.lines() {
        assert!(line.contains(" 0/0 ") && line.contains(EPOCH_READ), "{line}");
        let is_program = line.ends_with("/usr/bin/neap");
        assert!(
            line.starts_with("drwxr-xr-x") || line.starts_with(if is_program { "-rwxr-xr-x" } else { "-rw-r--r--" })
        );
        names.push(line.rsplit(' ').next().expect("a name"));
    }
    assert!(names.len() > 50 && names.is_sorted(), "{names:?}");
    let top = format!("neap-{}-{target}/", env!("CARGO_PKG_VERSION"));
    assert!(names.iter().all(|name| name.starts_with(&top)), "{names:?}");
    for file in [
        "etc/neap/neap.toml",
        "usr/bin/neap",
        "usr/include/neap_load.h",
        "usr/lib/systemd/system/neap.service",
        "usr/share/doc/neap/INSTALL.md",
        "usr/share/doc/neap/LICENSE",
        "usr/share/doc/neap/SECURITY.md",
        "usr/share/neap/models/LICENSES.md",
        "usr/share/neap/models/objects/1/model.onnx",
    ] {
        assert!(names.contains(&format!("{top}{file}").as_str()), "{file} is missing: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("/models/make/")), "no scripts that make models: {names:?}");
}

#[test]
fn a_binary_for_something_else_is_not_packed() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let Some(program) = small_program(folder.path(), "small", &[]) else { return };
    let file = folder.path().join("archive.tar.gz");
    let other = if target(&program) == Some("armv7-unknown-linux-gnueabihf") { "x86_64" } else { "armv7" };
    for (binary, target, word) in [
        (&program, format!("{other}-unknown-linux-gnueabihf"), "is for"),
        (&program, "x86_64-unknown-linux-musl".to_owned(), "must be static"),
        (&folder.path().join("small.c"), "x86_64-unknown-linux-gnu".to_owned(), "no little-endian ELF"),
    ] {
        let Some(output) = run("python3", &mut packaging("tarball", &[binary, Path::new(&target), &file])) else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(65) && said.contains(word), "{target}: {said}");
        assert!(!file.exists(), "nothing is left of it");
    }
}

// ---- the image ----

/// A layout with an image of a static small program.
fn small_image(folder: &Path, name: &str) -> Option<PathBuf> {
    let program = small_program(folder, "static", &["-static"])?;
    let layout = folder.join(name);
    succeeded(&run("python3", &mut packaging("oci", &[&layout, &program]))?);
    Some(layout)
}

#[test]
fn an_image_keeps_the_rules_of_image_layouts_and_is_the_same_every_time() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let Some(first) = small_image(folder.path(), "first") else { return };
    let images = image_layout::check(&first).expect("the layout keeps the rules");
    assert_eq!(images.len(), 1, "one binary, one image: {images:?}");
    let second = small_image(folder.path(), "second").expect("python3 is there");
    let files = image_layout::files(&first);
    assert_eq!(files, image_layout::files(&second), "the same files with the same bytes");
    assert_eq!(files.len(), 8, "index, version, list for old engines, and five blobs: {:?}", files.keys());
    // Made anew in the same place it is still the same, and a folder of somebody else is left alone.
    assert_eq!(files, image_layout::files(&small_image(folder.path(), "first").expect("python3 is there")));
    let program = folder.path().join("static");
    let output = run("python3", &mut packaging("oci", &[folder.path(), &program])).expect("python3 is there");
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    assert!(program.exists(), "what was there still is");
}

#[test]
fn a_layout_that_breaks_a_rule_is_found() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let Some(layout) = small_image(folder.path(), "image") else { return };
    let files = image_layout::files(&layout);
    let blobs: Vec<&PathBuf> = files.keys().filter(|path| path.starts_with("blobs")).collect();
    for blob in blobs {
        let path = layout.join(blob);
        let mut bytes = fs::read(&path).expect("a blob");
        *bytes.last_mut().expect("a blob has bytes") ^= 1;
        fs::write(&path, &bytes).expect("a blob can be written");
        assert!(image_layout::check(&layout).is_err(), "{} with another last byte", blob.display());
        bytes.pop();
        fs::write(&path, &bytes).expect("a blob can be written");
        assert!(image_layout::check(&layout).is_err(), "{} without its last byte", blob.display());
        fs::remove_file(&path).expect("a blob can be removed");
        assert!(image_layout::check(&layout).is_err(), "without {}", blob.display());
        fs::write(&path, &files[blob]).expect("a blob can be written");
    }
    for (file, from, to) in [
        ("oci-layout", "1.0.0", "2.0.0"),
        ("index.json", "\"schemaVersion\":2", "\"schemaVersion\":1"),
        ("index.json", "image.index.v1", "image.list.v1"),
        ("index.json", "\"size\":", "\"size\":1"),
    ] {
        let path = layout.join(file);
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains(from), "{file} has {from}: {text}");
        fs::write(&path, text.replace(from, to)).expect("a file can be written");
        assert!(image_layout::check(&layout).is_err(), "{file} with {to}");
        fs::write(&path, &text).expect("a file can be written");
    }
    image_layout::check(&layout).expect("what was broken is whole again");
}

#[test]
fn a_binary_that_asks_for_a_loader_gets_no_image() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let Some(program) = small_program(folder.path(), "dynamic", &[]) else { return };
    let layout = folder.path().join("image");
    let Some(output) = run("python3", &mut packaging("oci", &[&layout, &program])) else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(65) && said.contains("asks for the loader"), "{said}");
    assert!(!layout.exists(), "nothing is left of it");
}

#[test]
fn tools_of_others_read_the_image() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let Some(layout) = small_image(folder.path(), "image") else { return };
    let image = &image_layout::check(&layout).expect("the layout keeps the rules")[0];
    let tag = format!("oci:{}:{}", layout.display(), env!("CARGO_PKG_VERSION"));
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--override-arch", &image.architecture, &tag]);
    if let Some(output) = run("skopeo", &mut skopeo) {
        let told = succeeded(&output);
        assert!(told.contains(&image.architecture) && told.contains("org.opencontainers.image.title"), "{told}");
    }
    let bundle = folder.path().join("bundle");
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--rootless", "--image"]);
    umoci.arg(format!("{}:{}-{}", layout.display(), env!("CARGO_PKG_VERSION"), image.architecture)).arg(&bundle);
    if let Some(output) = run("umoci", &mut umoci) {
        succeeded(&output);
        let rootfs = bundle.join("rootfs");
        let program = fs::metadata(rootfs.join("usr/bin/neap")).expect("the program is there");
        assert_eq!(program.permissions().mode() & 0o7777, 0o755);
        assert!(rootfs.join("usr/share/neap/models/objects/1/model.onnx").exists(), "the models are there");
        let runtime = fs::read_to_string(bundle.join("config.json")).expect("what a runtime is told");
        assert!(runtime.contains("\"uid\": 65532") && runtime.contains("/etc/neap/neap.toml"), "{runtime}");
    }
}

// ---- nothing but it ----

/// Puts the loader and the libraries that a program asks for into a root; a static one asks for none.
fn add_libraries(program: &Path, folder: &Path, prefix: &Path) {
    let elf = elf::read(&fs::read(program).expect("a program can be read")).expect("a program");
    let wanted = elf.interpreter.iter().cloned().chain(elf.needed.iter().map(|name| format!("/lib/{name}")));
    for path in wanted {
        let name = Path::new(&path).file_name().expect("a library has a name");
        let shared = ["lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib/arm-linux-gnueabihf"];
        let places = shared.map(|place| prefix.join(place));
        let found = places.iter().map(|place| place.join(name)).find(|file| file.exists());
        let found = found.unwrap_or_else(|| panic!("{} is in none of {places:?}", name.display()));
        let place = folder.join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("a library is in a folder")).expect("a folder can be made");
        fs::copy(found, place).expect("a library can be copied");
    }
}

/// How a program of another architecture is started there: the line for binfmt_misc; nothing for this machine's own.
fn emulator(program: &Path) -> Option<(String, PathBuf)> {
    let elf = elf::read(&fs::read(program).expect("a program can be read")).expect("a program");
    let own = elf::read(&fs::read("/proc/self/exe").expect("this test can be read")).expect("a program");
    if elf.machine == own.machine {
        return Some((String::new(), PathBuf::from("/")));
    }
    let (architecture, qemu, prefix) = match elf.machine {
        (EM_AARCH64, true) => ("arm64", "/usr/bin/qemu-aarch64-static", "/usr/aarch64-linux-gnu"),
        (EM_ARM, false) => ("armhf", "/usr/bin/qemu-arm-static", "/usr/arm-linux-gnueabihf"),
        _ => return None,
    };
    if !Path::new(qemu).exists() {
        skip(&format!("{qemu} is missing: apt-get install qemu-user-static"));
        return None;
    }
    let mut handler = Command::new(root().join("tests/arm/handler"));
    let handler = succeeded(&handler.args([architecture, qemu]).output().expect("bash can be started"));
    Some((handler.trim_end().to_owned(), PathBuf::from(prefix)))
}

/// Runs a command in a root file system; `None`, said loudly, where the kernel does not allow it.
fn in_root(folder: &Path, binfmt: &str, words: &[&str]) -> Option<Output> {
    let namespaces = ["--user", "--map-root-user", "--mount"];
    let is_allowed =
        Command::new("unshare").args(namespaces).arg("true").output().is_ok_and(|tried| tried.status.success());
    if !is_allowed {
        skip("this machine gives nobody a user namespace: unshare --user --map-root-user --mount true");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(namespaces).args(["--", "sh", "-c", IN_ROOT, "sh"]).arg(folder).arg(binfmt).args(words);
    // f16 and dot product, no SVE: tract's SVE kernels are 44 times slower in emulation.
    command.env("QEMU_CPU", if binfmt.contains(r"\x28") { "cortex-a15" } else { "neoverse-n1" });
    Some(command.output().expect("unshare can be started"))
}

/// What a person does first on a new node, in a root file system that has the tree and nothing else.
fn serves_in(folder: &Path, binfmt: &str, config: &str) {
    let neap = |words: &[&str]| in_root(folder, binfmt, &[&["/usr/bin/neap"], words].concat());
    let Some(checked) = neap(&["check", "--config", config]) else { return };
    succeeded(&checked);
    // In emulation the models of pictures and sounds do not come to their end within the command's own limit.
    let all = ["faces", "file-type", "kpi-anomaly", "objects", "prb-forecast", "speech"];
    let models = if binfmt.is_empty() { &all[..] } else { &["kpi-anomaly", "prb-forecast"] };
    let test = [&["models", "test", "--dir", "/usr/share/neap/models"], models].concat();
    let tested = succeeded(&neap(&test).expect("a namespace"));
    for model in models {
        assert!(tested.contains(model), "{model} was tested: {tested}");
    }
    // It may well advise against such a machine; it must come to its end and say so, not crash.
    let advice = neap(&["doctor"]).expect("a namespace");
    let said = String::from_utf8_lossy(&advice.stdout).into_owned();
    assert!(advice.status.code().is_some_and(|code| code != 70 && code < 100) && !said.is_empty(), "{advice:?}");
}

#[test]
fn the_tree_of_the_archive_is_all_that_a_node_needs() {
    if std::env::var_os("NEAP_EMULATED").is_some() {
        return skip("an emulated test cannot start its own binary in another root");
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let Some(program) = small_program(folder.path(), "small", &[]) else { return };
    let Some(target) = target(&program) else { return skip("nothing is shipped for this machine") };
    let file = folder.path().join("archive.tar.gz");
    let Some(packed) = run("python3", &mut packaging("tarball", &[&program, Path::new(target), &file])) else { return };
    succeeded(&packed);
    let tree = folder.path().join("root");
    fs::create_dir(&tree).expect("a folder can be made");
    unpack(&file, &tree);
    // The binary of these tests instead of the small program: to pack its debug information would take minutes.
    let neap = tree.join("usr/bin/neap");
    fs::remove_file(&neap).expect("the small program is there");
    fs::copy(env!("CARGO_BIN_EXE_neap"), &neap).expect("the binary can be copied");
    add_libraries(&neap, &tree, Path::new("/"));
    serves_in(&tree, "", "/etc/neap/neap.toml");
}

// ---- what packaging/build made ----

/// The files of `NEAP_ARTIFACTS` whose names end so; empty, said loudly, without that folder.
fn artifacts(ending: &str) -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("NEAP_ARTIFACTS") else {
        skip("NEAP_ARTIFACTS names no folder of what packaging/build made");
        return Vec::new();
    };
    let entries = fs::read_dir(folder).expect("NEAP_ARTIFACTS is a folder");
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    paths.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

#[test]
fn every_archive_that_was_built_serves_with_nothing_else_there() {
    for archive in artifacts(".tar.gz") {
        let folder = tempfile::tempdir().expect("a folder can be made");
        unpack(&archive, folder.path());
        let program = folder.path().join("usr/bin/neap");
        let Some((binfmt, prefix)) = emulator(&program) else { continue };
        add_libraries(&program, folder.path(), &prefix);
        eprintln!("{}: as it is unpacked", archive.display());
        serves_in(folder.path(), &binfmt, "/etc/neap/neap.toml");
    }
}

#[test]
fn every_image_that_was_built_keeps_the_rules_and_serves() {
    for file in artifacts(".oci.tar") {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let layout = folder.path().join("image");
        fs::create_dir(&layout).expect("a folder can be made");
        succeeded(&Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(&layout).output().expect("tar"));
        for image in image_layout::check(&layout).expect("the layout keeps the rules") {
            let rootfs = folder.path().join(&image.architecture);
            fs::create_dir(&rootfs).expect("a folder can be made");
            for layer in &image.layers {
                let mut tar = Command::new("tar");
                tar.args(["--no-same-owner", "-xzf"]).arg(layer).arg("-C").arg(&rootfs);
                succeeded(&tar.output().expect("tar can be started"));
            }
            let Some((binfmt, _)) = emulator(&rootfs.join("usr/bin/neap")) else { continue };
            eprintln!("{}: {} from its layers", file.display(), image.architecture);
            serves_in(&rootfs, &binfmt, "/usr/share/doc/neap/neap.toml");
        }
    }
}

#[test]
fn every_file_that_was_built_has_its_sum() {
    for sums in artifacts("SHA256SUMS") {
        let folder = sums.parent().expect("a file is in a folder");
        let mut sha256sum = Command::new("sha256sum");
        sha256sum.args(["--check", "--strict", "SHA256SUMS"]).current_dir(folder);
        let checked = succeeded(&sha256sum.output().expect("sha256sum can be started"));
        let files = fs::read_dir(folder).expect("a folder can be listed").count();
        assert_eq!(checked.lines().count(), files - 1, "every file but the sums themselves: {checked}");
    }
}
