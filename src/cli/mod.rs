//! How is it used?

#[cfg(feature = "demo")]
pub mod demo;
