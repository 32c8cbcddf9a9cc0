//! Does a folder keep the rules of OCI image layouts? Digests, sizes, media types, platforms, layers.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// More of an index within an index is no layout of ours.
const DEPTH_MAX: u32 = 2;

/// One image: for whom, and the files of its layers from the lowest up.
#[derive(Debug)]
pub struct Image {
    pub architecture: String,
    pub layers: Vec<PathBuf>,
}

/// Every file below a folder with its bytes.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder can be listed") {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("it is below").to_owned();
                files.insert(name, fs::read(&path).expect("a file can be read"));
            }
        }
    }
    files
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    value[key].as_str().ok_or(format!("no text under {key}: {value}"))
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    value[key].as_array().ok_or(format!("no list under {key}: {value}"))
}

fn wants(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

struct Layout<'a> {
    folder: &'a Path,
    used: BTreeSet<String>,
    images: BTreeMap<String, Image>,
}

impl Layout<'_> {
    /// The bytes that a descriptor names, after its digest and size were compared.
    fn blob(&mut self, descriptor: &Value) -> Result<(PathBuf, Vec<u8>), String> {
        let digest = text(descriptor, "digest")?;
        let name = digest.strip_prefix("sha256:").ok_or(format!("{digest} is no SHA-256"))?;
        wants(name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit()), "a digest has 64 hexadecimal digits")?;
        let path = self.folder.join("blobs/sha256").join(name);
        let bytes = fs::read(&path).map_err(|error| format!("{digest}: {error}"))?;
        wants(descriptor["size"].as_u64() == u64::try_from(bytes.len()).ok(), &format!("{digest}: another size"))?;
        wants(hex_sha256(&bytes) == name, &format!("{digest}: other bytes"))?;
        self.used.insert(name.to_owned());
        Ok((path, bytes))
    }

    fn json(&mut self, descriptor: &Value) -> Result<Value, String> {
        let (_, bytes) = self.blob(descriptor)?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{descriptor}: {error}"))
    }

    fn index(&mut self, index: &Value, depth: u32) -> Result<(), String> {
        wants(depth <= DEPTH_MAX, "an index lies too deep")?;
        wants(index["schemaVersion"] == 2 && index["mediaType"] == INDEX, "an index says what it is")?;
        for descriptor in list(index, "manifests")? {
            match text(descriptor, "mediaType")? {
                INDEX => {
                    let inner = self.json(descriptor)?;
                    self.index(&inner, depth + 1)?;
                }
                MANIFEST => self.manifest(descriptor)?,
                other => return Err(format!("{other} is no manifest")),
            }
        }
        Ok(())
    }

    fn manifest(&mut self, descriptor: &Value) -> Result<(), String> {
        let manifest = self.json(descriptor)?;
        wants(manifest["schemaVersion"] == 2 && manifest["mediaType"] == MANIFEST, "a manifest says what it is")?;
        wants(manifest["config"]["mediaType"] == CONFIG, "the configuration has its type")?;
        let config = self.json(&manifest["config"])?;
        for key in ["architecture", "os", "variant"] {
            wants(config[key] == descriptor["platform"][key], &format!("{key} is the same in the index"))?;
        }
        wants(config["rootfs"]["type"] == "layers", "the root is made of layers")?;
        let (layers, plain) = (list(&manifest, "layers")?, list(&config["rootfs"], "diff_ids")?);
        wants(layers.len() == plain.len() && !layers.is_empty(), "as many layers as digests of them")?;
        let mut paths = Vec::new();
        for (layer, plain) in layers.iter().zip(plain) {
            wants(layer["mediaType"] == LAYER, "a layer has its type")?;
            let (path, _) = self.blob(layer)?;
            let unpacked = Command::new("gzip").arg("-dc").stdin(fs::File::open(&path).expect("a blob")).output();
            let unpacked = unpacked.map_err(|error| format!("gzip: {error}"))?;
            wants(unpacked.status.success(), "a layer can be unpacked")?;
            wants(*plain == format!("sha256:{}", hex_sha256(&unpacked.stdout)), "a layer is what its diff_id says")?;
            paths.push(path);
        }
        wants(config["config"]["User"] == "65532:65532", "nobody is root in it")?;
        wants(config["config"]["Entrypoint"] == serde_json::json!(["/usr/bin/neap"]), "it starts the agent")?;
        let architecture = text(&config, "architecture")?.to_owned();
        self.images.insert(architecture.clone(), Image { architecture, layers: paths });
        Ok(())
    }
}

/// The images of a layout, or the first rule that it breaks.
pub fn check(folder: &Path) -> Result<Vec<Image>, String> {
    let read = |name: &str| -> Result<Value, String> {
        let bytes = fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{name}: {error}"))
    };
    wants(read("oci-layout")?["imageLayoutVersion"] == "1.0.0", "the layout's version is 1.0.0")?;
    let index = read("index.json")?;
    let mut layout = Layout { folder, used: BTreeSet::new(), images: BTreeMap::new() };
    layout.index(&index, 0)?;
    let tags: BTreeSet<&str> =
        list(&index, "manifests")?.iter().filter_map(|entry| entry["annotations"][REF_NAME].as_str()).collect();
    wants(tags.len() == list(&index, "manifests")?.len(), "every entry has a tag of its own")?;
    let blobs = fs::read_dir(folder.join("blobs/sha256")).map_err(|error| error.to_string())?;
    let there: BTreeSet<String> = blobs.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    wants(there == layout.used, "every blob is used")?;
    Ok(layout.images.into_values().collect())
}
