//! What has a worker's sandbox come to? Item by item: what this kernel and this user gave, and what would give more. Pure.

use std::time::Duration;

/// How much of the sandbox must be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Without `no_new_privs`, Landlock and the filter of system calls no job runs.
    #[default]
    Required,
    /// As much as can be had.
    BestEffort,
    /// Resource limits only. Builds with debug assertions only.
    Off,
}

impl Level {
    /// All.
    pub const ALL: [Self; 3] = [Self::Required, Self::BestEffort, Self::Off];

    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }

    /// Whether this build knows it: one that is shipped has no way around the sandbox.
    pub const fn is_available(self) -> bool {
        match self {
            Self::Required | Self::BestEffort => true,
            Self::Off => cfg!(debug_assertions),
        }
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|level| level.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is no level of the sandbox"))
    }
}

/// How much of an item there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Given {
    /// All of it.
    Yes,
    /// Some of it.
    Partial,
    /// Nothing.
    No,
}

impl Given {
    /// All, as they are numbered in a frame.
    pub const ALL: [Self; 3] = [Self::Yes, Self::Partial, Self::No];

    /// `yes`, `partial` or `no`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Partial => "partial",
            Self::No => "no",
        }
    }
}

/// The items of the sandbox, in the order in which a worker enters it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Files that the agent had open are closed.
    Files,
    /// A network of its own, with nothing in it.
    Network,
    /// Another user than the agent's.
    User,
    /// No capability, and no way to one.
    Capabilities,
    /// Limits of files, processes, memory.
    Limits,
    /// Memory that no other process of the user can read or dump.
    Hidden,
    /// No executed file can grant anything.
    NoNewPrivs,
    /// No path, no TCP port, no signal to others.
    Landlock,
    /// Nothing but the system calls on the list.
    Seccomp,
}

impl Step {
    /// All, in order.
    pub const ALL: [Self; 9] = [
        Self::Files,
        Self::Network,
        Self::User,
        Self::Capabilities,
        Self::Limits,
        Self::Hidden,
        Self::NoNewPrivs,
        Self::Landlock,
        Self::Seccomp,
    ];

    /// As in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Files => "inherited_files",
            Self::Network => "network_namespace",
            Self::User => "user",
            Self::Capabilities => "capabilities",
            Self::Limits => "limits",
            Self::Hidden => "hidden_memory",
            Self::NoNewPrivs => "no_new_privs",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }

    /// Whether [`Level::Required`] refuses without it.
    pub const fn is_essential(self) -> bool {
        match self {
            Self::NoNewPrivs | Self::Landlock | Self::Seccomp => true,
            Self::Files | Self::Network | Self::User | Self::Capabilities | Self::Limits | Self::Hidden => false,
        }
    }

    /// Whether it belongs to a sandbox that is called full. The others are second rings around what the filter of
    /// system calls forbids already, and many a node rightly runs without them.
    pub const fn is_expected(self) -> bool {
        match self {
            Self::Network | Self::User => false,
            Self::Files
            | Self::Capabilities
            | Self::Limits
            | Self::Hidden
            | Self::NoNewPrivs
            | Self::Landlock
            | Self::Seccomp => true,
        }
    }

    /// What gives it, where it is missing.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Files => "run Linux 5.9 or later",
            Self::Network => {
                "let the agent's user make user namespaces (user.max_user_namespaces above 0, no RestrictNamespaces= in \
                 the unit), or run the agent as root"
            }
            Self::User => {
                "run the agent as root with CAP_SETUID, CAP_SETGID and CAP_KILL, or leave it: the agent's own user should \
                 own nothing but its state"
            }
            Self::Capabilities => "give the unit no AmbientCapabilities= that the agent does not need",
            Self::Limits => "look at the refusal: a process may always lower its own limits",
            Self::Hidden | Self::NoNewPrivs => "run Linux 3.5 or later, not an emulator",
            Self::Landlock => {
                "run Linux 5.13 or later (6.12 for all of it) with CONFIG_SECURITY_LANDLOCK, and put landlock into its boot \
                 parameter lsm=, before what /sys/kernel/security/lsm lists"
            }
            Self::Seccomp => "run Linux 4.17 or later with CONFIG_SECCOMP_FILTER, on x86_64, aarch64 or 32-bit ARM",
        }
    }
}

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which.
    pub step: Step,
    /// How much of it there is.
    pub given: Given,
    /// How, or why not.
    pub detail: String,
}

/// One line of a report about the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Stable name, such as `landlock`.
    pub name: &'static str,
    /// How much of it there is.
    pub given: Given,
    /// How, or why not.
    pub detail: String,
    /// What would give all of it; empty when it is there.
    pub remedy: &'static str,
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.name, self.given.as_str(), self.detail)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

/// The sandbox in one word, for results and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Neither Landlock nor a filter of system calls.
    #[default]
    None,
    /// Not all that belongs to it.
    Partial,
    /// All that belongs to it.
    Full,
}

impl Strength {
    /// `none`, `partial` or `full`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Partial => "partial",
            Self::Full => "full",
        }
    }
}

/// What a worker's sandbox has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Achieved {
    /// What was asked for.
    pub level: Level,
    /// Every item once, in order; none when the sandbox was never entered.
    pub outcomes: Vec<Outcome>,
    /// Which Landlock the kernel has; 0: none.
    pub landlock_abi: u8,
    /// The user that the worker is.
    pub uid: u32,
    /// Time it took to enter, without the warm-up.
    pub set_up: Duration,
    /// Time that the engine took to look at the machine before it was locked out.
    pub warm_up: Duration,
}

impl Achieved {
    /// How much of an item there is.
    pub fn given(&self, step: Step) -> Given {
        self.outcomes.iter().find(|outcome| outcome.step == step).map_or(Given::No, |outcome| outcome.given)
    }

    /// All in one word.
    pub fn strength(&self) -> Strength {
        let has = |step: Step| self.given(step) != Given::No;
        if !has(Step::Landlock) && !has(Step::Seccomp) {
            Strength::None
        } else if Step::ALL.into_iter().filter(|step| step.is_expected()).all(has) {
            Strength::Full
        } else {
            Strength::Partial
        }
    }

    /// Why no job may run at [`Level::Required`], with the remedy; `None` when one may.
    pub fn unavailable(&self) -> Option<String> {
        let missing = Step::ALL.into_iter().find(|step| step.is_essential() && self.given(*step) == Given::No)?;
        let why = self.outcomes.iter().find(|outcome| outcome.step == missing);
        let why = why.map_or_else(|| format!("there is no {}", missing.name()), |outcome| outcome.detail.clone());
        let cost = self.cost_without();
        Some(format!("{why}; {}; or set [sandbox] level = \"best-effort\", and {cost}", missing.remedy()))
    }

    /// What it costs to run jobs without the essential items that are missing.
    pub fn cost_without(&self) -> &'static str {
        let has = |step: Step| self.given(step) != Given::No;
        match (has(Step::Landlock), has(Step::Seccomp)) {
            (false, true) => {
                "nothing but the filter of system calls keeps a model that breaks the engine from files, network and \
                 other processes"
            }
            (true, false) => {
                "a model that breaks the engine may make every system call: Landlock keeps it from files and TCP, nothing \
                 from faults of the kernel"
            }
            (false, false) => "a model that breaks the engine may do whatever its worker's user may",
            (true, true) => "a worker may be granted by a file that it executes what it has given up",
        }
    }

    /// A report, line by line.
    pub fn items(&self) -> Vec<Item> {
        let item = |outcome: &Outcome| Item {
            name: outcome.step.name(),
            given: outcome.given,
            detail: outcome.detail.clone(),
            remedy: if outcome.given == Given::Yes { "" } else { outcome.step.remedy() },
        };
        self.outcomes.iter().map(item).collect()
    }

    /// One sentence for each item that belongs to the sandbox and is missing.
    pub fn notes(&self) -> Vec<String> {
        let missing = self.outcomes.iter().filter(|outcome| outcome.step.is_expected() && outcome.given == Given::No);
        missing.map(|outcome| format!("jail: no {}: {}", outcome.step.name(), outcome.detail)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn achieved(without: &[Step]) -> Achieved {
        let outcome = |step| {
            let given = if without.contains(&step) { Given::No } else { Given::Yes };
            let detail = if step == Step::Landlock && given == Given::No { "kernel 5.4 has no Landlock" } else { "x" };
            Outcome { step, given, detail: detail.to_owned() }
        };
        Achieved { outcomes: Step::ALL.into_iter().map(outcome).collect(), ..Achieved::default() }
    }

    #[test]
    fn second_rings_do_not_make_a_sandbox_partial_but_every_expected_item_does() {
        assert_eq!(achieved(&[]).strength(), Strength::Full);
        assert_eq!(achieved(&[Step::User, Step::Network]).strength(), Strength::Full);
        for step in Step::ALL.into_iter().filter(|step| step.is_expected()) {
            assert_eq!(achieved(&[step]).strength(), Strength::Partial, "{}", step.name());
        }
        assert_eq!(achieved(&[Step::Landlock, Step::Seccomp]).strength(), Strength::None);
        assert_eq!(Achieved::default().strength(), Strength::None);
    }

    #[test]
    fn what_is_essential_and_missing_is_named_with_its_remedy() {
        assert_eq!(achieved(&[Step::User, Step::Network, Step::Limits]).unavailable(), None);
        let why = achieved(&[Step::Landlock]).unavailable().unwrap();
        assert!(why.starts_with("kernel 5.4 has no Landlock; run Linux 5.13 or later"), "{why}");
        for words in
            ["CONFIG_SECURITY_LANDLOCK", "boot parameter lsm=", "set [sandbox] level = \"best-effort\", and nothing"]
        {
            assert!(why.contains(words), "{words}: {why}");
        }
        for step in Step::ALL.into_iter().filter(|step| step.is_essential()) {
            assert!(achieved(&[step]).unavailable().is_some(), "{}", step.name());
        }
        assert!(Achieved::default().unavailable().is_some(), "a sandbox that was never entered is none");
    }

    #[test]
    fn to_run_without_costs_what_the_other_rings_do_not_hold() {
        let cost = |without: &[Step]| achieved(without).unavailable().unwrap();
        assert!(cost(&[Step::Landlock]).contains("nothing but the filter of system calls keeps"));
        assert!(cost(&[Step::Seccomp]).contains("every system call: Landlock keeps it from files"));
        for without in [&[Step::Landlock, Step::Seccomp][..], &[Step::NoNewPrivs, Step::Landlock, Step::Seccomp]] {
            assert!(cost(without).ends_with("whatever its worker's user may"), "{}", cost(without));
        }
    }

    #[test]
    fn only_what_is_missing_has_a_remedy() {
        for item in achieved(&[Step::Seccomp]).items() {
            assert_eq!(item.remedy.is_empty(), item.given == Given::Yes, "{item}");
        }
    }

    #[test]
    fn every_level_is_read_as_it_is_written() {
        for level in Level::ALL {
            assert_eq!(level.as_str().parse(), Ok(level));
        }
        assert!("Required".parse::<Level>().is_err());
    }
}
