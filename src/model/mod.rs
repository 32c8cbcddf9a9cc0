//! What is a model here? Its manifest (`model.toml`), the files beside it, and the folder of all models.
//!
//! [`manifest`] reads `model.toml` into a [`Manifest`] and is pure; [`library`] knows the folder; [`golden`] says
//! whether a model still gives what ONNX Runtime gave; [`verdict`] is what an appraisal found out about it; [`signed`]
//! says whether it is the one that its publisher signed, [`floors`] which versions are too old. Agent, worker and command
//! line all work from the same [`Manifest`].

pub mod floors;
pub mod golden;
pub mod library;
pub mod manifest;
pub mod signed;
pub mod verdict;

pub use manifest::{Manifest, Port, Prepare};
