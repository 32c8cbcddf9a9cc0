//! Can an L1 in C tell the sentinel its load by `include/neap_load.h` alone?

#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "support/giving_way.rs"]
mod giving_way;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use giving_way::{GivingWay, Way};
use neap::governor::Reason;
use neap::load::{Metric, shm};
use neap::units::{CellId, SourceId, Utilization};

/// The example, compiled as strictly as can be; `None` without a compiler.
fn example(folder: &Path) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = folder.join("example");
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "-std=c99", "-pedantic", "-O2", "-I"]).arg(root.join("include"));
    cc.arg("-o").arg(&program).arg(root.join("tests/data/shm/example.c"));
    match cc.output() {
        Err(error) => {
            eprintln!("SKIPPED: no C compiler can be run here ({error}), so nobody has tried include/neap_load.h");
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(program)
        }
    }
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().expect("it was compiled a moment ago")
}

#[test]
fn c_and_rust_mean_the_same_page() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = example(folder.path()) else { return };
    let output = run(&program, &["layout"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let in_c = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name} is missing in {said}"))
    };
    assert_eq!(in_c("size"), shm::PAGE_BYTES as u64);
    let marks = [("MAGIC", shm::MAGIC), ("END", shm::END), ("VERSION", shm::VERSION), ("GONE", shm::FLAG_GONE)];
    for (name, mark) in marks {
        assert_eq!(in_c(name), u64::from(mark), "{name}");
    }
    for (name, offset) in shm::LAYOUT {
        assert_eq!(in_c(name), offset as u64, "{name}");
    }
    assert_eq!(said.lines().count(), 5 + shm::LAYOUT.len(), "each field is compared: {said}");
}

#[test]
fn a_c_program_opens_and_ends_the_trough_of_a_running_sentinel() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = example(folder.path()) else { return };
    let node = GivingWay::start(Way::Page, None);
    let page = node.page.to_str().unwrap();
    let tell = |arguments: &[&str]| {
        let output = run(&program, &[&[page], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let cell = (1_u64 << 35) + 5;
    let cell_text = cell.to_string();

    tell(&[&cell_text, "60", "35", "5000000000"]);
    node.wait_for_trough();
    tell(&[&cell_text, "60", "710", "5000000000"]);
    let record = node.wait_for_yield();
    let [limit, level] = [400, 710].map(|permille| Utilization::from_permille(permille).unwrap());
    assert_eq!(record.reason, Reason::Above { source: SourceId(0), level, limit });
    assert_eq!((record.metric, record.cell, record.workers), (Metric::PrbTotUl, CellId(cell), 1));
    assert!(record.stamped.is_some_and(|stamped| stamped <= record.received), "{record:?}");

    tell(&[&cell_text, "60", "35", "5000000000"]);
    node.wait_for_trough();
    tell(&[&cell_text, "60", "35", "5000000001"]);
    assert_eq!(node.wait_for_yield().reason, Reason::Late(SourceId(0)), "a late slot, beyond 32 bits");
    node.wait_for_trough();
    tell(&[&cell_text, "1001", "0", "5000000001"]);
    assert_eq!(node.wait_for_yield().reason, Reason::Malformed(SourceId(0)));
    tell(&[&cell_text, "60", "35", "5000000001"]);
    node.wait_for_trough();
    tell(&[&cell_text, "0", "0", "0", "gone"]);
    assert_eq!(node.wait_for_yield().reason, Reason::NoSource, "no cell is left to be idle");
}

#[test]
fn a_c_program_is_told_what_is_wrong_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = example(folder.path()) else { return };
    let other = folder.path().join("other");
    std::fs::write(&other, [b'x'; shm::PAGE_BYTES]).unwrap();
    let said = |path: &Path| {
        let output = run(&program, &[path.to_str().unwrap(), "1", "0", "0", "0"]);
        assert_eq!(output.status.code(), Some(69));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(&folder.path().join("missing")).contains("No such file"));
    assert!(said(&other).contains("Invalid argument"));
    assert_eq!(std::fs::read(&other).unwrap(), [b'x'; shm::PAGE_BYTES]);
}
