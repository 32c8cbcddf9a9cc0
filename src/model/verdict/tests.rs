//! What a verdict says, whether it still holds, and what becomes of its file.

use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::model::manifest;

fn entry() -> Entry {
    let text = format!(
        "name = \"m\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\n\
         digest = \"sha256:{}\"\ninputs = [{{ name = \"x\", datatype = \"FP32\", shape = [1] }}]\n\
         outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1] }}]\n",
        "ab".repeat(32)
    );
    let manifest = manifest::parse(&text).unwrap();
    Entry { manifest, manifest_text: text.into(), labels: "".into(), folder: "/m".into(), standing: Default::default() }
}

fn terms() -> Terms {
    Terms { engine: "engine 1".into(), agent: "0.1.0".into(), arch: "aarch64".into(), limits: Limits::default() }
}

fn cost() -> Cost {
    Cost {
        load: Duration::from_micros(80_123),
        preflight: Duration::from_micros(410),
        run_p50: Duration::from_micros(88_000),
        run_max: Duration::from_micros(98_000),
        worst_node: WorstNode {
            name: "/head/Softmax".into(),
            op: "Softmax".into(),
            time: Duration::from_micros(7_300),
        },
        nodes: 170,
        plan_bytes: 17 << 20,
        rss_bytes: 76 << 20,
        goldens: Goldens { passed: 1, of: 2, mismatch: Some("b.json: element 3 is 1, expected 2".into()) },
    }
}

fn verdict(outcome: Outcome) -> Verdict {
    let entry = entry();
    let (digest, manifest) = (entry.manifest.digest, manifest_digest(&entry));
    Verdict { digest, manifest, terms: terms(), at: WallTime::from_millis(1_795_000_000_000), outcome }
}

fn refusal(code: Code) -> Verdict {
    verdict(Outcome::Refused(Fault::new(code, "the reason")))
}

#[test]
fn a_verdict_is_read_as_it_was_written() {
    for verdict in [verdict(Outcome::Accepted(cost())), refusal(Code::ModelShape)] {
        assert_eq!(Verdict::parse(&verdict.render()), Some(verdict));
    }
}

#[test]
fn what_another_version_or_hand_has_written_is_no_verdict() {
    let text = String::from_utf8(verdict(Outcome::Accepted(cost())).render()).unwrap();
    let refused = [
        ("\"format\": 1", "\"format\": 2"),
        ("\"at_ms\"", "\"colour\": \"red\", \"at_ms\""),
        ("\"sha256:abab", "\"sha1:abab"),
        ("\"passed\": 1", "\"passed\": 3"),
        ("\"run_us_p50\": 88000", "\"run_us_p50\": 98001"),
        ("\"nodes\": 170", "\"nodes\": -1"),
        ("\"accepted\"", "\"rejected\""),
    ];
    for (from, to) in refused {
        assert!(text.contains(from), "{from} in {text}");
        assert_eq!(Verdict::parse(text.replace(from, to).as_bytes()), None, "{to}");
    }
    let unknown =
        String::from_utf8(refusal(Code::ModelShape).render()).unwrap().replace("model.shape", "model.haunted");
    assert_eq!(Verdict::parse(unknown.as_bytes()), None);
}

#[test]
fn texts_out_of_a_file_are_made_safe() {
    let mut bad = cost();
    bad.worst_node.name = format!("\u{1b}[31m{}", "ä".repeat(200));
    let read = Verdict::parse(&verdict(Outcome::Accepted(bad)).render()).unwrap();
    let name = &read.cost().unwrap().worst_node.name;
    assert!(name.starts_with(" [31m") && name.len() <= NAME_BYTES_MAX, "{name:?}");
}

#[test]
fn a_verdict_holds_for_its_file_manifest_engine_version_and_machine() {
    let (entry, terms) = (entry(), terms());
    let verdict = verdict(Outcome::Accepted(cost()));
    assert_eq!(verdict.stale(&entry, &terms), None);
    let other = |change: fn(&mut Verdict)| {
        let mut other = verdict.clone();
        change(&mut other);
        other.stale(&entry, &terms)
    };
    assert_eq!(other(|verdict| verdict.digest = Digest([0; 32])), Some("it is about another file"));
    assert_eq!(other(|verdict| verdict.manifest = Digest([0; 32])), Some("model.toml was changed since"));
    assert_eq!(other(|verdict| verdict.terms.engine = "engine 2".into()), Some("it was made by another version"));
    assert_eq!(other(|verdict| verdict.terms.agent = "0.2.0".into()), Some("it was made by another version"));
    assert_eq!(other(|verdict| verdict.terms.arch = "x86_64".into()), Some("it was made on another kind of machine"));
}

#[test]
fn acceptance_holds_within_wider_limits_and_a_refusal_by_limits_within_narrower_ones() {
    let entry = entry();
    let under = |change: fn(&mut Limits)| {
        let mut terms = terms();
        change(&mut terms.limits);
        terms
    };
    let (wider, narrower) = (under(|limits| limits.plan_bytes *= 2), under(|limits| limits.item_bytes /= 2));
    let (accepted, memory) = (verdict(Outcome::Accepted(cost())), refusal(Code::WorkerMemory));
    assert_eq!(accepted.stale(&entry, &wider), None);
    assert!(accepted.stale(&entry, &narrower).is_some());
    assert_eq!(memory.stale(&entry, &narrower), None);
    assert!(memory.stale(&entry, &wider).is_some());
    assert!(refusal(Code::WorkerTimeout).stale(&entry, &under(|limits| limits.run *= 2)).is_some());
    assert_eq!(refusal(Code::ModelParse).stale(&entry, &wider), None, "no limit makes it readable");
}

#[test]
fn a_verdict_is_kept_by_digest_and_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("verdicts");
    let first = refusal(Code::ModelShape);
    assert_eq!(files::read(&folder, &first.digest), None);
    files::write(&folder, &first).unwrap();
    assert_eq!(files::read(&folder, &first.digest), Some(first.clone()));
    let second = verdict(Outcome::Accepted(cost()));
    files::write(&folder, &second).unwrap();
    assert_eq!(files::read(&folder, &first.digest), Some(second));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
    files::remove(&folder, &first.digest).unwrap();
    files::remove(&folder, &first.digest).unwrap();
    assert_eq!(files::read(&folder, &first.digest), None);
}

#[test]
fn damaged_foreign_and_giant_files_are_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let verdict = verdict(Outcome::Accepted(cost()));
    files::write(folder.path(), &verdict).unwrap();
    let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(files::read(folder.path(), &verdict.digest), None, "cut after {length} bytes");
    }
    let mut giant = whole.clone();
    giant.resize(usize::try_from(files::VERDICT_BYTES_MAX).unwrap() + 1, b' ');
    fs::write(&path, giant).unwrap();
    assert_eq!(files::read(folder.path(), &verdict.digest), None);
    // Another model's verdict under this name.
    fs::write(&path, &whole).unwrap();
    let other = Digest([7; 32]);
    let name = other.to_string().replace("sha256:", "") + ".json";
    fs::copy(&path, folder.path().join(name)).unwrap();
    assert_eq!(files::read(folder.path(), &other), None);
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert_eq!(files::read(folder.path(), &verdict.digest), None, "a link");
}

#[test]
fn the_oldest_verdict_gives_way_when_there_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let oldest = folder.path().join("oldest.json");
    for number in 0..files::VERDICTS_MAX {
        let path = if number == 0 { oldest.clone() } else { folder.path().join(format!("{number}.json")) };
        fs::write(path, "x").unwrap();
    }
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1);
    fs::File::options().write(true).open(&oldest).unwrap().set_modified(long_ago).unwrap();
    files::write(folder.path(), &refusal(Code::ModelShape)).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), files::VERDICTS_MAX);
    assert!(!oldest.exists());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(Verdict::parse(&bytes), None);
    }
}
