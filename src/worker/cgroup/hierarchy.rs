//! What must a hierarchy be able to do, whichever version it is?

use std::fmt::Debug;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Limits;
use super::floor::{Floor, Had};
use super::tree::{self, Tree};

/// One hierarchy: which limits it can set, and how it kills.
pub(super) trait Hierarchy: Debug + Send + Sync {
    /// How sentences call it.
    fn name(&self) -> &str;

    /// Makes our folder fit to hold groups of workers: it gets the controllers, and the least share of the CPU, because
    /// it is this folder, not the groups in it, that competes with what lies beside it.
    fn prepare(&self, tree: &dyn Tree, home: &Path);

    /// Limits the group of one worker, and tells what could be had. An item that this hierarchy has no part in is left
    /// out: another may have it.
    fn limit(&self, tree: &dyn Tree, group: &Path, limits: &Limits, floor: &mut Floor);

    /// Why a controller cannot be had from this hierarchy (or not before the start), with the remedy; `None` when it can,
    /// or is no affair of it.
    fn why_not(&self, controller: &str) -> Option<(Had, String)>;

    /// Kills every process in the group.
    fn kill(&self, tree: &dyn Tree, group: &Path);

    /// Takes back what [`Hierarchy::prepare`] did outside of `home`, once the groups in it are gone.
    fn leave(&self, tree: &dyn Tree, home: &Path);
}

/// Kills every process that a group lists. For hierarchies that cannot do it at one blow: a process that forks at that
/// moment is missed, so look again.
pub(super) fn kill_listed(group: &Path) {
    for pid in tree::processes(group) {
        let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != rustix::process::getpid()) else { continue };
        // The descriptor holds the process, so what is killed is what was listed: an id that was given to a stranger
        // meanwhile is not in the list any more.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if tree::processes(group).contains(&pid.as_raw_nonzero().get()) {
            // Refused only for one that has ended, or is not ours to kill.
            let _gone = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}
