//! What does each fuzz target do with its bytes, and what must hold whatever they are?
//!
//! One function a target, named as its corpus folder. libFuzzer calls them through `fuzz/fuzz_targets`, and
//! `tests/fuzz_corpora.rs` replays every corpus through them. A broken claim is a panic.
//!
//! "No panic" is the least of the claims. What is read is rendered and read again and must be the same; what is accepted
//! is within its limits; what is refused says so in one short line that a terminal can show; and nothing allocates more
//! than a few times what it was given.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod dpdk;
pub mod forecast;
pub mod frames;
pub mod jobs;
pub mod load;
pub mod log;
pub mod models;
pub mod ocudu;
pub mod planning;
pub mod reports;
pub mod texts;
pub mod trust;

use neap::fault::Fault;
use neap::sys::alloc;
use neap::tensor::Tensor;
use neap::units::{ELEMENTS_MAX, FAULT_TEXT_BYTES_MAX, RANK_MAX};

/// One target.
pub type Target = fn(&[u8]);

/// Every target under the name of its corpus.
pub const ALL: &[(&str, Target)] = &[
    ("commands", jobs::commands),
    ("config_toml", texts::config_toml),
    ("forecast_state", forecast::forecast_state),
    ("job_binary", jobs::job_binary),
    ("job_json", jobs::job_json),
    ("key_ring", trust::key_ring),
    ("load_dpdk", dpdk::load_dpdk),
    ("load_log", log::load_log),
    ("load_ocudu", ocudu::load_ocudu),
    ("load_mqtt", planning::load_mqtt),
    ("load_pm", planning::load_pm),
    ("load_procfs", load::load_procfs),
    ("load_push", load::load_push),
    ("load_shm", load::load_shm),
    ("load_trace", load::load_trace),
    ("model_bundle", models::model_bundle),
    ("model_preflight", models::model_preflight),
    ("model_toml", texts::model_toml),
    ("order_envelope", trust::order_envelope),
    ("reports", reports::reports),
    ("topics", texts::topics),
    ("worker_frames", frames::worker_frames),
];

/// What a text may cost beside its length: buffers and tables of a fixed size.
const ALLOWANCE_BYTES: u64 = 256 * 1024;

/// Runs `read` and claims that it never held more than `factor` times the `given` bytes, and a little.
fn bounded<T>(given: usize, factor: u64, read: impl FnOnce() -> T) -> T {
    let before = alloc::used();
    alloc::reset_peak();
    let result = read();
    let held = alloc::peak().saturating_sub(before);
    let limit = given as u64 * factor + ALLOWANCE_BYTES;
    assert!(held <= limit, "{given} bytes of input made it hold {held} bytes, above {limit}");
    result
}

/// Claims that a sentence can be shown on a terminal and written to a log as it is.
fn is_plain(sentence: &str, bytes_max: usize) {
    assert!(sentence.len() <= bytes_max, "{} bytes above {bytes_max}: {sentence:.200}…", sentence.len());
    assert!(!sentence.is_empty(), "nothing is said");
    if let Some(sign) = sentence.chars().find(|sign| sign.is_control()) {
        panic!("control character {sign:?} in {sentence:?}");
    }
}

/// Claims of every fault.
fn is_plain_fault(fault: &Fault) {
    is_plain_message(&fault.message);
}

/// Claims of every text of a fault.
fn is_plain_message(message: &str) {
    if !message.is_empty() {
        is_plain(message, FAULT_TEXT_BYTES_MAX);
    }
}

/// Claims that the bytes of an accepted tensor are those that its shape and type ask for.
fn fits(tensor: &Tensor) {
    assert!(tensor.shape.len() <= RANK_MAX, "{tensor:?}");
    let elements = tensor.elements().filter(|elements| *elements <= ELEMENTS_MAX);
    let elements = elements.unwrap_or_else(|| panic!("too many elements in {:?}", tensor.shape));
    match tensor.datatype.element_bytes() {
        Some(size) => assert_eq!(tensor.data.len(), size * elements, "{:?} {:?}", tensor.shape, tensor.datatype),
        None => assert_eq!(tensor.to_strings().map(|strings| strings.len()), Some(elements), "{:?}", tensor.shape),
    }
}
