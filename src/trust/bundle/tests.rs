use proptest::prelude::*;
use ring::rand::SystemRandom;

use super::*;
use crate::trust::publisher::SigningKey;

fn key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).unwrap().0
}

fn statement() -> Statement {
    let files = [("1/model.onnx", 1), ("model.toml", 2)];
    let files = files.map(|(name, byte)| (name.to_owned(), Digest([byte; 32])));
    Statement { name: "m".to_owned(), files: files.into() }
}

fn sign(key: &SigningKey, payload: &[u8]) -> String {
    let signature = key.sign(&pae(payload), &SystemRandom::new()).unwrap();
    render(key.public(), payload, &signature)
}

/// What is said of a statement that was changed before it was signed.
fn verdict(change: impl FnOnce(&mut Value)) -> Result<Statement, Fault> {
    let mut value: Value = serde_json::from_slice(&statement().render()).unwrap();
    change(&mut value);
    let key = key();
    Bundle::parse(sign(&key, value.to_string().as_bytes()).as_bytes())?.verify(key.public())
}

/// As in [`verdict`], but only the list of files changes, and the digest over it fits.
fn with_files(change: impl FnOnce(&mut Vec<Value>)) -> Result<Statement, Fault> {
    verdict(|value| {
        let files = value["predicate"]["resources"].as_array_mut().unwrap();
        change(files);
        let digests: Vec<Digest> = files.iter().filter_map(|file| hex(file["digest"].as_str()?)).collect();
        value["subject"][0]["digest"]["sha256"] = bare(&root(digests.iter())).into();
    })
}

fn refusal(verdict: Result<Statement, Fault>) -> String {
    let fault = verdict.unwrap_err();
    assert_eq!(fault.code, Code::ModelBadSignature);
    fault.message
}

#[test]
fn what_was_signed_comes_back() {
    let key = key();
    let bundle = Bundle::parse(sign(&key, &statement().render()).as_bytes()).unwrap();
    assert_eq!(*bundle.hint(), hint(key.public()));
    assert_eq!(bundle.verify(key.public()), Ok(statement()));
}

#[test]
fn nothing_is_read_of_what_another_key_signed_or_what_was_changed() {
    let signer = key();
    let text = sign(&signer, &statement().render());
    assert!(refusal(Bundle::parse(text.as_bytes()).unwrap().verify(key().public())).contains("does not verify"));
    let other = STANDARD.encode(Statement { name: "n".to_owned(), ..statement() }.render());
    let changed = text.replace(&STANDARD.encode(statement().render()), &other);
    assert_ne!(changed, text);
    assert!(refusal(Bundle::parse(changed.as_bytes()).unwrap().verify(signer.public())).contains("does not verify"));
}

#[test]
fn a_statement_of_another_kind_is_refused() {
    let said = refusal(verdict(|value| value["_type"] = "https://in-toto.io/Statement/v0.1".into()));
    assert!(said.contains("Statement/v0.1"), "{said}");
    let said = refusal(verdict(|value| value["predicateType"] = "https://slsa.dev/provenance/v1".into()));
    assert!(said.contains("slsa.dev"), "{said}");
    for (key, value) in [("method", "shards".into()), ("hash_type", "blake3".into()), ("allow_symlinks", true.into())] {
        let said = refusal(verdict(|statement| statement["predicate"]["serialization"][key] = value));
        assert!(said.contains("whole files by sha256"), "{said}");
    }
    let said = refusal(verdict(|value| value["subject"] = json!([])));
    assert!(said.contains("0 subjects"), "{said}");
    let said = refusal(verdict(|value| value["subject"][0]["digest"]["sha256"] = "00".repeat(32).into()));
    assert!(said.contains("digest over all files"), "{said}");
}

#[test]
fn a_list_with_a_path_out_of_the_folder_or_a_file_twice_is_refused() {
    let long = "x".repeat(PATH_BYTES_MAX + 1);
    let deep = "a/".repeat(DEPTH_MAX + 1) + "b";
    for path in
        ["", "/etc/passwd", "../x", "a/../../x", "a/./x", "a//x", "a/", "a\\x", "a\nx", "\u{1b}[2J", &long, &deep]
    {
        let said = refusal(with_files(|files| files[0]["name"] = path.into()));
        assert!(said.contains("no path of a file in a model"), "{path:?}: {said}");
    }
    assert!(with_files(|files| files[0]["name"] = "ä/b c.onnx".into()).is_ok());
    let said = refusal(with_files(|files| files[0]["name"] = files[1]["name"].clone()));
    assert!(said.contains("twice"), "{said}");
    let said = refusal(with_files(|files| files[0]["algorithm"] = "md5".into()));
    assert!(said.contains("md5"), "{said}");
    let said = refusal(with_files(Vec::clear));
    assert!(said.contains("lists 0 files"), "{said}");
    let many = |files: &mut Vec<Value>| {
        let file = files[0].clone();
        *files = vec![file; RESOURCES_MAX + 1];
    };
    assert!(refusal(with_files(many)).contains("lists 2001 files"));
}

#[test]
fn what_is_no_bundle_is_refused() {
    let good: Value = serde_json::from_str(&sign(&key(), &statement().render())).unwrap();
    let said = |change: fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        let fault = Bundle::parse(value.to_string().as_bytes()).unwrap_err();
        assert_eq!(fault.code, Code::ModelBadSignature);
        fault.message
    };
    assert!(said(|value| value["mediaType"] = "x".into()).contains("\"x\""));
    assert!(said(|value| value["verificationMaterial"] = json!({})).contains("certificate"));
    assert!(said(|value| value["verificationMaterial"]["publicKey"] = json!({})).contains("does not name its key"));
    assert!(said(|value| value["verificationMaterial"]["publicKey"]["hint"] = "ab".into()).contains("SHA-256"));
    assert!(said(|value| value["dsseEnvelope"] = Value::Null).contains("no DSSE envelope"));
    assert!(said(|value| value["dsseEnvelope"]["payloadType"] = "text/plain".into()).contains("text/plain"));
    assert!(said(|value| value["dsseEnvelope"]["signatures"] = json!([])).contains("0 signatures"));
    assert!(said(|value| value["dsseEnvelope"]["payload"] = "*".into()).contains("not base64"));
    for bytes in [&b""[..], b"{", b"[]", b"\xff\xfe", &vec![b' '; BUNDLE_BYTES_MAX + 1]] {
        assert_eq!(Bundle::parse(bytes).unwrap_err().code, Code::ModelBadSignature);
    }
}

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Bundle::parse(&bytes);
        let _ = Statement::parse(&bytes);
    }

    #[test]
    fn a_bundle_cut_anywhere_is_refused(part in 0.0..1.0_f64) {
        let key = key();
        let text = sign(&key, &statement().render());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in it")]
        let at = ((text.trim_end().len() as f64) * part) as usize;
        prop_assert!(Bundle::parse(&text.as_bytes()[..at]).is_err());
    }
}
