//! Folders of models made by a test.

use std::fs;
use std::path::{Path, PathBuf};

use neap::units::Digest;
use sha2::{Digest as _, Sha256};

/// A manifest of a model from `x FP32 [-1]` to `output FP32 [-1]`, for that file.
pub fn manifest(name: &str, file: &[u8], output: &str) -> String {
    let digest = Digest(Sha256::digest(file).into());
    format!(
        "name = \"{name}\"\nversion = 1\nsummary = \"Made by a test.\"\nlicence = \"Apache-2.0\"\n\
         source = \"made by a test\"\nfile = \"model.onnx\"\ndigest = \"{digest}\"\n\
         inputs = [{{ name = \"x\", datatype = \"FP32\", shape = [-1] }}]\n\
         outputs = [{{ name = \"{output}\", datatype = \"FP32\", shape = [-1] }}]\n"
    )
}

/// Makes the folder of a model; `Ok` is where.
pub fn install(models: &Path, name: &str, file: &[u8], manifest: &str) -> PathBuf {
    let folder = models.join(name);
    fs::create_dir(&folder).expect("a folder can be made");
    fs::write(folder.join("model.onnx"), file).expect("a file can be written");
    fs::write(folder.join("model.toml"), manifest).expect("a file can be written");
    folder
}
