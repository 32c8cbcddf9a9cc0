//! Claims about the guard.
