//! What may a worker open, connect to, signal? Nothing: a Landlock ruleset without a single rule.
//!
//! A ruleset says which rights it handles, and what is handled is denied unless a rule allows it. All rights that this
//! kernel can handle are, and there is no rule. What was opened before, and what the agent hands over, stays usable: a
//! model is a descriptor, never a path.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus, Ruleset, RulesetAttr as _,
    RulesetStatus, Scope,
};

use super::achieved::Given;

/// The newest Landlock whose rights are asked for; an older kernel handles what it knows of them.
const NEWEST: ABI = ABI::V10;
/// The Landlock from which on all that matters here is handled: paths, TCP, ioctl, abstract sockets, signals.
const WHOLE: ABI = ABI::V6;

/// What Landlock gave.
pub(super) struct Locked {
    pub(super) given: Given,
    pub(super) abi: u8,
    pub(super) detail: String,
}

/// Locks this thread out of everything, for good.
pub(super) fn enter() -> Locked {
    let refused = |why: String| Locked { given: Given::No, abi: 0, detail: why };
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    let status = match status {
        Ok(status) => status,
        Err(error) => return refused(format!("the kernel refused the Landlock ruleset: {error}")),
    };
    let (abi, newer) = match status.landlock {
        LandlockStatus::NotImplemented => return refused(format!("kernel {} has no Landlock", release())),
        LandlockStatus::NotEnabled => {
            return refused(format!("kernel {} has Landlock, but was started without it", release()));
        }
        LandlockStatus::Available { effective_abi, kernel_abi } => (effective_abi, kernel_abi),
    };
    let number = u8::try_from(abi as i32).unwrap_or(u8::MAX);
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced if abi >= WHOLE => {
            let newer = newer.map(|abi| format!(" (the kernel has {abi})")).unwrap_or_default();
            let detail = format!("ABI {number}{newer}: no path, no TCP port, no abstract socket, no signal to others");
            Locked { given: Given::Yes, abi: number, detail }
        }
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => {
            let tcp = if abi >= ABI::V4 { ", no TCP port" } else { "" };
            Locked { given: Given::Partial, abi: number, detail: format!("ABI {number}: no path{tcp}") }
        }
        RulesetStatus::NotEnforced => refused(format!("kernel {} did not take the Landlock ruleset", release())),
    }
}

/// Release of the running kernel.
fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
