//! temporary frame
pub(super) mod harvest;
