//! Is a model installed whole or not at all, from a folder or over https, whatever comes in between?
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "support/shelf.rs"]
mod shelf;
#[path = "support/web.rs"]
mod web;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::disk::{Tmpfs, can_trace};
use common::pki::Pki;
use neap::model::floors::Floors;
use neap::trust::keyring::KeyRing;
use neap::trust::publisher::SigningKey;
use shelf::{Shelf, entry, new_key, said, sign};
use web::{Answer, Server};

const SIGNED: &str = "model.sig";
const NETWORK: &str = "/m/1/model.onnx";

/// A shelf that believes a new key.
fn shelf() -> (Shelf, SigningKey) {
    let (shelf, key) = (Shelf::empty(), new_key());
    let mut ring = KeyRing::default();
    ring.add(entry(key.public().clone(), "acme")).unwrap();
    shelf.use_ring(&ring);
    (shelf, key)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn add(shelf: &Shelf, source: &Path) -> std::process::Output {
    shelf.run("add", &[&text(source), "--no-golden"])
}

fn succeeds(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    said(output)
}

fn fails(output: &std::process::Output, words: &str) -> String {
    assert!(!output.status.success() && said(output).contains(words), "{words:?}: {}", said(output));
    said(output)
}

fn floor(shelf: &Shelf) -> Option<u32> {
    Floors::read(&shelf.path("state")).unwrap().of(&"kpi-anomaly".parse().unwrap())
}

// ---- from a folder ----

#[test]
fn a_model_is_tried_and_installed_and_the_one_before_is_kept() {
    let (shelf, key) = shelf();
    let told = succeeds(&shelf.run("add", &[&text(&shelf.source(1, Some(&key)))]));
    assert!(told.contains("good, by acme") && told.contains("2 golden cases agree"), "{told}");
    assert_eq!((shelf.versions(), floor(&shelf)), ((Some(1), None), Some(1)));
    assert!(
        succeeds(&add(&shelf, &shelf.source(1, Some(&key)))).contains("installed already")
            || shelf.versions().0 == Some(1)
    );
    let told = succeeds(&add(&shelf, &shelf.source(3, Some(&key))));
    assert!(told.contains("version 1 is kept"), "{told}");
    assert_eq!((shelf.versions(), floor(&shelf)), ((Some(3), Some(1)), Some(3)));
    // Hidden folders are no models.
    let listed = succeeds(&shelf.run("list", &["--json"]));
    assert_eq!(listed.lines().count(), 1, "{listed}");
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(shelf.model()), mode(shelf.model().join(SIGNED))), (0o755, 0o644));
}

#[test]
fn going_back_is_a_decision_and_lowers_the_floor() {
    let (shelf, key) = shelf();
    for version in [1, 2] {
        succeeds(&add(&shelf, &shelf.source(version, Some(&key))));
    }
    fails(&add(&shelf, &shelf.source(1, Some(&key))), "model.version_rollback");
    let told = succeeds(&shelf.run("rollback", &["kpi-anomaly"]));
    assert!(told.contains("v1 serves instead of 2"), "{told}");
    assert_eq!((shelf.versions(), floor(&shelf)), ((Some(1), Some(2)), Some(1)));
    succeeds(&shelf.run("verify", &[]));
    // And forward again.
    succeeds(&shelf.run("rollback", &["kpi-anomaly"]));
    assert_eq!((shelf.versions(), floor(&shelf)), ((Some(2), Some(1)), Some(2)));
    // What is removed leaves its floor.
    fails(&shelf.run("rm", &["kpi-anomaly"]), "say --yes");
    succeeds(&shelf.run("rm", &["kpi-anomaly", "--yes"]));
    assert_eq!((shelf.versions(), floor(&shelf)), ((None, None), Some(2)));
    fails(&add(&shelf, &shelf.source(1, Some(&key))), "model.version_rollback");
    fails(&shelf.run("rollback", &["kpi-anomaly"]), "no earlier version");
}

#[test]
fn what_is_not_to_be_trusted_is_not_installed() {
    let (shelf, key) = shelf();
    fails(&add(&shelf, &shelf.source(1, None)), "model.unsigned");
    fails(&add(&shelf, &shelf.source(2, Some(&new_key()))), "model.unknown_key");
    let changed = shelf.source(3, Some(&key));
    fs::write(changed.join("samples/more.json"), "{}").unwrap();
    fails(&add(&shelf, &changed), "model.files_differ");
    let broken = shelf.source(4, None);
    fs::write(broken.join("1/model.onnx"), "x").unwrap();
    sign(&broken, &key);
    fails(&add(&shelf, &broken), "model.hash_mismatch");
    let wrong = shelf.source(5, None);
    let golden = wrong.join("golden/healthy.json");
    let numbers = fs::read_to_string(&golden).unwrap();
    fs::write(&golden, numbers.replace("\"data\": [", "\"data\": [1").replace("\"data\":[", "\"data\":[1")).unwrap();
    sign(&wrong, &key);
    fails(&shelf.run("add", &[&text(&wrong)]), "a worker tried it");
    fails(&add(&shelf, &shelf.path("state")), "no model.toml");
    assert_eq!((shelf.versions(), floor(&shelf)), ((None, None), None));
    // Without a key ring it is as it was before there were any.
    succeeds(&shelf.command_without_ring("add", &[&text(&shelf.source(6, None)), "--no-golden"]).output().unwrap());
}

#[test]
fn an_installation_that_is_killed_at_any_step_leaves_the_old_or_the_new_model_whole() {
    if !can_trace() {
        return;
    }
    let mut kills = 0;
    for (call, steps) in [("renameat2", 1..=1), ("rename", 1..=4), ("fsync", 1..=12), ("unlinkat", 1..=3)] {
        for at in steps {
            let (shelf, key) = shelf();
            for version in [1, 2] {
                succeeds(&add(&shelf, &shelf.source(version, Some(&key))));
            }
            let source = text(&shelf.source(3, Some(&key)));
            let plain = shelf.models_command("add", &[&source, "--no-golden"]);
            let mut traced = Command::new("strace");
            traced.args(["-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
            traced.arg("-e").arg(format!("inject={call}:signal=KILL:when={at}"));
            let output = traced.arg(plain.get_program()).args(plain.get_args()).output().unwrap();
            kills += usize::from(output.status.signal() == Some(9) || output.status.code() == Some(137));
            let serves = shelf.versions().0;
            assert!(matches!(serves, Some(2 | 3)), "{call} {at}: {:?} {}", shelf.versions(), said(&output));
            succeeds(&shelf.run("verify", &[]));
            // The next run clears up, and the newest is there in the end.
            succeeds(&add(&shelf, Path::new(&source)));
            assert_eq!(shelf.versions(), (Some(3), Some(2)), "{call} {at}");
            let left: Vec<_> = fs::read_dir(shelf.models().join(".staging")).unwrap().flatten().collect();
            assert!(left.len() <= 2, "{call} {at}: {left:?}");
            succeeds(&shelf.run("verify", &[]));
        }
    }
    assert!(kills >= 10, "only {kills} runs were killed");
}

#[test]
fn a_full_or_read_only_disk_is_told_and_changes_nothing() {
    let (shelf, key) = shelf();
    let source = shelf.source(2, Some(&key));
    let Some(disk) = Tmpfs::mount(&shelf.models(), "size=256k") else { return };
    succeeds(&add(&shelf, &shelf.source(1, Some(&key))));
    disk.fill();
    fails(&add(&shelf, &source), "free some space");
    assert_eq!(shelf.versions().0, Some(1));
    disk.free();
    disk.set_read_only(true);
    fails(&add(&shelf, &source), "mount it writable");
    assert_eq!(shelf.versions().0, Some(1));
    disk.set_read_only(false);
    succeeds(&add(&shelf, &source));
    assert_eq!(shelf.versions().0, Some(2));
}

// ---- over https ----

/// A shelf, the certificates of a server, and a model to be served at `/m/`.
struct Net {
    shelf: Shelf,
    pki: Pki,
    source: PathBuf,
}

impl Net {
    fn new() -> Self {
        let (shelf, key) = shelf();
        let pki = Pki::new(&shelf.path("state"), "web");
        let source = shelf.source(1, Some(&key));
        // Large enough to be cut somewhere, and covered by the signature.
        fs::write(source.join("samples/large.bin"), vec![7; 600_000]).unwrap();
        sign(&source, &key);
        Self { shelf, pki, source }
    }

    fn serve(&self, change: impl Fn(&str, usize, Answer) -> Answer + Send + Sync + 'static) -> Server {
        Server::start(&self.pki.localhost(), &self.source, "/m/", change)
    }

    fn add(&self, server: &Server, more: &[&str]) -> std::process::Output {
        let (url, ca) = (format!("https://localhost:{}/m/", server.port()), text(&self.pki.ca_file()));
        let mut arguments = vec![url.as_str(), "--no-golden", "--ca", &ca];
        arguments.extend(more);
        self.shelf.run("add", &arguments)
    }
}

const LARGE: &str = "/m/samples/large.bin";

#[test]
fn a_model_comes_over_https_whole() {
    let net = Net::new();
    let server = net.serve(|_, _, answer| answer);
    let told = succeeds(&net.add(&server, &[]));
    assert!(told.contains("good, by acme"), "{told}");
    assert_eq!(net.shelf.versions().0, Some(1));
    succeeds(&net.shelf.run("verify", &[]));
}

#[test]
fn an_unsigned_model_comes_with_the_files_that_its_manifest_names() {
    let net = Net::new();
    fs::remove_file(net.source.join(SIGNED)).unwrap();
    let server = net.serve(|_, _, answer| answer);
    fails(&net.add(&server, &[]), "model.unsigned");
    assert_eq!(server.asked(NETWORK), 0, "nothing is fetched that will not be believed");
    let (url, ca) = (format!("https://localhost:{}/m/model.toml", server.port()), text(&net.pki.ca_file()));
    let arguments = [url.as_str(), "--no-golden", "--ca", &ca];
    succeeds(&net.shelf.command_without_ring("add", &arguments).output().unwrap());
    assert_eq!((net.shelf.versions().0, net.shelf.model().join("samples/large.bin").exists()), (Some(1), false));
}

#[test]
fn a_transfer_that_is_cut_goes_on_where_it_ended() {
    let net = Net::new();
    let server = net.serve(|path, time, answer| match (path, time) {
        (LARGE, 1 | 2) => answer.cut_after(250_000),
        _ => answer,
    });
    succeeds(&net.add(&server, &[]));
    let ranges = server.ranges(LARGE);
    assert_eq!(ranges.first(), Some(&None));
    assert!(ranges.len() == 3 && ranges[1..].iter().all(Option::is_some), "{ranges:?}");
    succeeds(&net.shelf.run("verify", &[]));
}

#[test]
fn the_next_run_goes_on_where_a_dead_server_left_it_and_starts_anew_when_the_file_changed() {
    let net = Net::new();
    let server = net.serve(|path, time, answer| match (path, time) {
        (LARGE, 1) => answer.cut_after(250_000),
        (LARGE, 2) => answer.cut_after(0),
        _ => answer,
    });
    let told = fails(&net.add(&server, &[]), "the same command goes on from there");
    assert!(told.contains("model.fetch"), "{told}");
    assert_eq!(net.shelf.versions().0, None);
    succeeds(&net.add(&server, &[]));
    let ranges = server.ranges(LARGE);
    assert!(ranges.last().unwrap().as_deref().is_some_and(|range| range.starts_with("bytes=2")), "{ranges:?}");

    let net = Net::new();
    let server = net.serve(|path, time, answer| match (path, time) {
        (LARGE, 1) => answer.cut_after(250_000).tag("\"old\""),
        _ => answer,
    });
    succeeds(&net.add(&server, &[]));
    succeeds(&net.shelf.run("verify", &[]));
}

#[test]
fn what_is_not_the_file_that_was_signed_is_refused() {
    let net = Net::new();
    let server = net.serve(|path, _, answer| if path == NETWORK { answer.body(b"another".to_vec()) } else { answer });
    fails(&net.add(&server, &[]), "model.hash_mismatch");
    assert_eq!(net.shelf.versions().0, None);
}

#[test]
fn too_much_is_refused_before_it_fills_the_disk() {
    let net = Net::new();
    // Said in the head, or only found while it comes.
    let said_so =
        net.serve(|path, _, answer| if path == LARGE { answer.body(vec![0; 3 * 1024 * 1024]) } else { answer });
    fails(&net.add(&said_so, &["--max-mib", "1"]), "model.too_large");
    let endless =
        net.serve(
            |path, _, answer| {
                if path == LARGE { answer.body(vec![0; 3 * 1024 * 1024]).without_length() } else { answer }
            },
        );
    fails(&net.add(&endless, &["--max-mib", "1"]), "model.too_large");
    let bundle = net.serve(
        |path, _, answer| {
            if path.ends_with(SIGNED) { answer.body(vec![b' '; 2 * 1024 * 1024]) } else { answer }
        },
    );
    fails(&net.add(&bundle, &[]), "model.too_large");
    assert_eq!(net.shelf.versions().0, None);
}

#[test]
fn a_redirect_to_plain_http_or_round_in_circles_is_refused() {
    let net = Net::new();
    let plain = net.serve(
        |path, _, answer| {
            if path == NETWORK { answer.redirect("http://localhost:1/m/1/model.onnx") } else { answer }
        },
    );
    fails(&net.add(&plain, &[]), "model.fetch");
    let round = net.serve(|path, _, answer| if path == NETWORK { answer.redirect(NETWORK) } else { answer });
    fails(&net.add(&round, &[]), "model.fetch");
    assert!(round.asked(NETWORK) <= 5, "{}", round.asked(NETWORK));
    let moved =
        net.serve(|path, _, answer| if path == NETWORK { answer.redirect("/m/moved/1/model.onnx") } else { answer });
    fails(&net.add(&moved, &[]), "404");
    let (url, ca) = ("http://models.example.net/m/", text(&net.pki.ca_file()));
    fails(&net.shelf.run("add", &[url, "--ca", &ca]), "must begin with https://");
}

#[test]
fn a_server_that_stalls_is_given_up() {
    let net = Net::new();
    let server =
        net.serve(|path, _, answer| if path == NETWORK { answer.stall(Duration::from_secs(20)) } else { answer });
    fails(&net.add(&server, &["--stall-s", "1"]), "timeout");
    let server = net.serve(
        |path, _, answer| {
            if path == LARGE { answer.stall_after(1000, Duration::from_secs(20)) } else { answer }
        },
    );
    fails(&net.add(&server, &["--stall-s", "1"]), "model.fetch");
    assert_eq!(net.shelf.versions().0, None);
}

#[test]
fn a_server_that_nobody_vouches_for_is_refused() {
    let net = Net::new();
    let server = net.serve(|_, _, answer| answer);
    let other = Pki::new(&net.shelf.path("state"), "other");
    let (url, ca) = (format!("https://localhost:{}/m/", server.port()), text(&other.ca_file()));
    fails(&net.shelf.run("add", &[&url, "--ca", &ca]), "UnknownIssuer");
    fails(&net.shelf.run("add", &[&url]), "--ca is missing");
    // The environment's proxy is not asked.
    let mut command = net.shelf.models_command("add", &[&url, "--no-golden", "--ca", &text(&net.pki.ca_file())]);
    command.env("https_proxy", "http://127.0.0.1:1").env("ALL_PROXY", "http://127.0.0.1:1");
    succeeds(&command.output().unwrap());
}

#[test]
fn two_installations_at_once_do_not_mix() {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let net = Net::new();
    let server = net.serve(|path, _, answer| {
        if path == LARGE {
            STARTED.fetch_add(1, Ordering::SeqCst);
            return answer.stall(Duration::from_secs(3));
        }
        answer
    });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| net.add(&server, &[]));
        common::wait_for("the first one's request", String::new, || (STARTED.load(Ordering::SeqCst) > 0).then_some(()));
        let second = add(&net.shelf, &net.source);
        assert_eq!(second.status.code(), Some(75), "{}", said(&second));
        succeeds(&first.join().unwrap());
    });
    assert_eq!(net.shelf.versions().0, Some(1));
}
