//! Models on a shelf of one's own: copies of a small signed model, key rings, and the command that judges them.

#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use neap::model::signed;
use neap::trust::bundle::{self, SIGNATURE_FILE, Statement};
use neap::trust::key::{PublicKey, Role};
use neap::trust::keyring::{Entry, KeyRing};
use neap::trust::publisher::SigningKey;
use ring::rand::SystemRandom;
use serde_json::Value;
use tempfile::TempDir;

#[path = "files.rs"]
mod files;

pub(crate) use files::copy;

/// What the tool signed, and what it wrote.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/signing")
}

/// A public key of the fixtures.
pub fn public(name: &str) -> PublicKey {
    PublicKey::from_pem(&fs::read_to_string(fixtures().join(name)).unwrap()).unwrap()
}

/// A key as a ring has it.
pub fn entry(key: PublicKey, owner: &str) -> Entry {
    let all = || vec!["*".to_owned()];
    Entry {
        key,
        role: Role::Publisher,
        owner: owner.parse().unwrap(),
        not_before: None,
        not_after: None,
        nodes: all(),
        models: all(),
    }
}

/// A ring with the keys of the fixtures.
pub fn ring() -> KeyRing {
    let mut ring = KeyRing::default();
    ring.add(entry(public("p256.pub.pem"), "acme")).unwrap();
    ring.add(entry(public("p384.pub.pem"), "other")).unwrap();
    ring
}

/// A new key that signs.
pub fn new_key() -> SigningKey {
    SigningKey::generate(&SystemRandom::new()).unwrap().0
}

/// A folder of models, a key ring, a state directory.
pub struct Shelf {
    root: TempDir,
}

impl Shelf {
    /// With the small model of the fixtures, signed by the tool as that file says; none: not signed.
    pub fn with(signature: Option<&str>) -> Self {
        let shelf = Self::empty();
        copy(&fixtures().join("kpi-anomaly"), &shelf.model());
        if let Some(signature) = signature {
            fs::copy(fixtures().join(signature), shelf.model().join(SIGNATURE_FILE)).unwrap();
        }
        shelf
    }

    /// Without any model.
    pub fn empty() -> Self {
        let shelf = Self { root: tempfile::tempdir().unwrap() };
        for folder in ["models", "state"] {
            fs::create_dir(shelf.path(folder)).unwrap();
        }
        shelf.use_ring(&ring());
        shelf
    }

    /// Somewhere beside the models.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The folder of models.
    pub fn models(&self) -> PathBuf {
        self.path("models")
    }

    /// The small model.
    pub fn model(&self) -> PathBuf {
        self.models().join("kpi-anomaly")
    }

    /// From now on that ring counts.
    pub fn use_ring(&self, ring: &KeyRing) {
        fs::write(self.path("keys.json"), ring.render()).unwrap();
    }

    /// A source for an installation: the small model with another version, signed with that key.
    pub fn source(&self, version: u32, key: Option<&SigningKey>) -> PathBuf {
        let folder = self.path(&format!("source-{version}"));
        copy(&fixtures().join("kpi-anomaly"), &folder);
        let text = fs::read_to_string(folder.join("model.toml")).unwrap();
        fs::write(folder.join("model.toml"), text.replace("version = 1", &format!("version = {version}"))).unwrap();
        if let Some(key) = key {
            sign(&folder, key);
        }
        folder
    }

    /// `neap models ACTION …` with this shelf's folders, ring and state.
    pub fn models_command(&self, action: &str, arguments: &[&str]) -> Command {
        let mut command = self.command_without_ring(action, arguments);
        command.arg("--ring").arg(self.path("keys.json"));
        command
    }

    /// The same without any key ring.
    pub fn command_without_ring(&self, action: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
        command.args(["models", action]).args(arguments).arg("--dir").arg(self.models());
        command.arg("--state").arg(self.path("state")).stdin(Stdio::null());
        command
    }

    /// Runs it.
    pub fn run(&self, action: &str, arguments: &[&str]) -> Output {
        self.models_command(action, arguments).output().unwrap()
    }

    /// What `neap models verify` says of the only model: whether it is right, and why.
    pub fn verdict(&self) -> (bool, String) {
        let output = self.run("verify", &["--json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
        let right = said["right"].as_bool().unwrap();
        assert_eq!(output.status.code(), Some(if right { 0 } else { 65 }), "{output:?}");
        (right, said["detail"].as_str().unwrap().to_owned())
    }

    /// The version that serves, and that which is kept.
    pub fn versions(&self) -> (Option<u32>, Option<u32>) {
        let version =
            |folder: PathBuf| neap::model::library::Entry::at(&folder).ok().map(|entry| entry.manifest.version);
        (version(self.model()), version(self.models().join(".previous/kpi-anomaly")))
    }
}

/// Signs a folder as its publisher would.
pub fn sign(folder: &Path, key: &SigningKey) {
    let files = signed::files(folder).unwrap();
    let payload = Statement { name: "kpi-anomaly".to_owned(), files }.render();
    sign_payload(folder, key, &payload);
}

/// Signs whatever the payload says.
pub fn sign_payload(folder: &Path, key: &SigningKey, payload: &[u8]) {
    let signature = key.sign(&bundle::pae(payload), &SystemRandom::new()).unwrap();
    fs::write(folder.join(SIGNATURE_FILE), bundle::render(key.public(), payload, &signature)).unwrap();
}

/// Both outputs of a command.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
