//! What does it take to show a whole node at work? For commands that need one: a private folder, a configuration, the
//! real agent as a child process, somebody who gives it work, somebody who plays its radio, and clocks read from outside.

pub(super) mod asker;
pub(super) mod measure;
pub(super) mod node;
pub(super) mod player;
