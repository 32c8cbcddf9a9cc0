//! What a model's author sends: the ONNX file before the engine sees it, and the signature over its files.

use std::path::{Component, Path};
use std::sync::LazyLock;

use neap::model::Port;
use neap::tensor::DataType;
use neap::trust::bundle::{Bundle, RESOURCES_MAX, Statement, check_path, pae, render};
use neap::trust::key::{PrivateKey, SEED_BYTES};
use neap::units::Digest;
use neap::worker::engine::Pinned;
use neap::worker::preflight::inspect;

use super::trust::edited;
use super::{bounded, is_plain_fault};

/// Memory for each byte of an ONNX file: an empty node of two bytes is a record of many fields, kept twice for a moment.
const HELD_PER_ONNX_BYTE: u64 = 1024;
/// Memory for each byte of a bundle: a short path is a record in a tree.
const HELD_PER_BYTE: u64 = 64;

/// An ONNX file, for a network from `x` to `y` with four numbers each, and for one without ports. The engine is not
/// asked: it may do anything with what has passed.
pub fn model_preflight(bytes: &[u8]) {
    let x = Pinned { name: "x".to_owned(), datatype: DataType::Fp32, shape: vec![1, 4] };
    let y = Port { name: "y".to_owned(), datatype: DataType::Fp32, shape: vec![Some(1), Some(4)], default: None };
    for (inputs, outputs) in [(vec![x], vec![y]), (Vec::new(), Vec::new())] {
        for knows in [true, false] {
            let judged = bounded(bytes.len(), HELD_PER_ONNX_BYTE, || {
                inspect(bytes, &|_: &str| knows, &inputs, &outputs).map(|cleared| cleared.remarks)
            });
            match judged {
                Ok(remarks) => assert!(remarks.len() <= bytes.len()),
                Err(fault) => is_plain_fault(&fault),
            }
        }
    }
}

fn key() -> PrivateKey {
    PrivateKey::from_seed(&[5; SEED_BYTES])
}

fn signed(statement: &Statement) -> String {
    let payload = statement.render();
    render(&key().public(), &payload, &key().sign(&pae(&payload)))
}

static BUNDLE: LazyLock<(String, Statement)> = LazyLock::new(|| {
    let files = [("1/model.onnx", 1), ("model.toml", 2)];
    let files = files.map(|(name, byte)| (name.to_owned(), Digest([byte; 32])));
    let statement = Statement { name: "m".to_owned(), files: files.into() };
    (signed(&statement), statement)
});

/// A bundle as it is, and as changes of a signed one; also a path in it.
pub fn model_bundle(bytes: &[u8]) {
    let (text, statement) = &*BUNDLE;
    for text in [bytes, &edited(text, bytes)] {
        let bundle = match bounded(text.len(), HELD_PER_BYTE, || Bundle::parse(text)) {
            Ok(bundle) => bundle,
            Err(fault) => {
                is_plain_fault(&fault);
                continue;
            }
        };
        match bundle.verify(&key().public()) {
            Ok(found) => assert_eq!(found, *statement, "{} was never signed", String::from_utf8_lossy(text)),
            Err(fault) => is_plain_fault(&fault),
        }
        match bounded(text.len(), HELD_PER_BYTE, || bundle.claims()) {
            Ok(claims) => {
                assert!((1..=RESOURCES_MAX).contains(&claims.files.len()));
                claims.files.keys().for_each(|path| stays_inside(path));
            }
            Err(fault) => is_plain_fault(&fault),
        }
    }
    let Ok(path) = std::str::from_utf8(bytes) else { return };
    match check_path(path) {
        Ok(()) => stays_inside(path),
        Err(fault) => is_plain_fault(&fault),
    }
}

fn stays_inside(path: &str) {
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    assert!(inside && !path.chars().any(char::is_control), "{path:?} leaves the model's folder");
}

/// A valid input, for the corpus.
pub fn examples() -> Vec<(&'static str, String, Vec<u8>)> {
    vec![("model_bundle", "signed".to_owned(), BUNDLE.0.clone().into_bytes())]
}
