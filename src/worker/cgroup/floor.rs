//! What holds a worker if the agent fails, and what does not? One sentence for each item, with its remedy.

/// How much of an item could be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Had {
    /// All of it.
    Yes,
    /// Something that does nearly the same.
    Nearly,
    /// Nothing.
    No,
}

impl Had {
    /// `yes`, `nearly` or `no`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Nearly => "nearly",
            Self::No => "no",
        }
    }
}

/// One item of the floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is, mostly the name of the file that asks for it, such as `cpu.idle`.
    pub name: &'static str,
    /// How much of it could be had.
    pub had: Had,
    /// How, or why not and what to do.
    pub text: String,
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.name, self.had.as_str(), self.text)
    }
}

/// What could be had and what not, in the order in which it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    items: Vec<Item>,
}

impl Floor {
    /// In the order in which it matters; every item once.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// One sentence an item.
    pub fn sentences(&self) -> Vec<String> {
        self.items.iter().map(Item::to_string).collect()
    }

    /// How much of an item could be had.
    pub fn had(&self, name: &str) -> Had {
        self.items.iter().find(|item| item.name == name).map_or(Had::No, |item| item.had)
    }

    /// Adds what became of an item. Of two outcomes (two workers) the worse one stays.
    pub fn tell(&mut self, name: &'static str, had: Had, text: impl Into<String>) {
        let item = Item { name, had, text: text.into() };
        match self.items.iter_mut().find(|known| known.name == name) {
            Some(known) if item.had > known.had => *known = item,
            Some(_) => {}
            None => self.items.push(item),
        }
    }

    /// Whether anything was said about an item.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.items.iter().any(|item| item.name == name)
    }

    /// Brings the items into that order; others stay behind.
    pub(super) fn sort(&mut self, order: &[&str]) {
        let rank = |name: &str| order.iter().position(|known| *known == name).unwrap_or(order.len());
        self.items.sort_by_key(|item| rank(item.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_workers_the_worse_outcome_is_told() {
        let mut floor = Floor::default();
        floor.tell("pids.max", Had::Yes, "16");
        floor.tell("cpu.idle", Had::Nearly, "cpu.weight 1 instead");
        floor.tell("pids.max", Had::No, "refused");
        floor.tell("pids.max", Had::Yes, "16");
        floor.sort(&["cpu.idle", "pids.max"]);
        assert_eq!(floor.sentences(), ["cpu.idle: nearly: cpu.weight 1 instead", "pids.max: no: refused"]);
        assert_eq!((floor.had("pids.max"), floor.had("memory.max")), (Had::No, Had::No));
    }
}
