//! Who asks for inference? A small controller that holds the node to its word.
pub mod assortment;
pub mod book;
pub mod seen;

pub use assortment::Assortment;
pub use book::{Sight, Tally, Yielded};

use crate::link::topics::Topics;
use crate::units::JobId;
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Wait,
    Submit,
    Finish,
    Leave,
}

pub struct Plan {
    pub host: String,
    pub port: u16,
    pub topics: Topics,
    pub assortment: Assortment,
    pub open_max: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum News {
    Link { up: bool, why: String },
    State { mode: String, reason: String, running: u32, queued: u32 },
    Submitted { id: JobId, title: String, items: u32 },
    Progress { id: JobId, status: String, done: u32 },
    Ended { id: JobId, status: String, items_done: u32, sights: Vec<Sight> },
    Yield(Yielded),
    Note(String),
}
pub async fn run(_plan: Plan, _phase: watch::Receiver<Phase>, _tell: impl Fn(News)) -> Option<Tally> {
    None
}
