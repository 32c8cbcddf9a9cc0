//! temporary
mod grant;
