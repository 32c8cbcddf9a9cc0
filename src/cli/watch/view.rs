//! How is it shown? The nodes at the bottom of a terminal and events above them; plain lines in a pipe.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::news::{News, Weight};
use crate::cli::failure::Failure;
use crate::cli::out::{Out, Tone};

/// Most nodes that stay at the bottom; events of all are shown.
const NODES_SHOWN_MAX: usize = 32;

/// The picture.
#[derive(Debug)]
pub(super) struct View<'o> {
    out: &'o Out,
    bars: MultiProgress,
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug)]
struct Node {
    bar: ProgressBar,
    mode: String,
    words: String,
    load: String,
}

impl<'o> View<'o> {
    pub(super) fn open(out: &'o Out) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { out, bars, nodes: BTreeMap::new() }
    }

    /// Shows one piece of news.
    pub(super) fn show(&mut self, now: &str, node: &str, news: &News) -> Result<(), Failure> {
        match news {
            News::Node { mode, words } => {
                // Nodes say their state again whenever somebody might have missed it.
                let known = self.nodes.get(node).is_some_and(|kept| kept.mode == *mode && kept.words == *words);
                if known {
                    return Ok(());
                }
                self.line(now, node, &self.out.paint(tone(mode), &format!("{mode}: {words}")))?;
                self.change(node, |kept| (kept.mode, kept.words) = (mode.clone(), words.clone()));
            }
            News::Load(words) => {
                // In a pipe the load is worth a line: nothing else shows it there.
                if !io::stderr().is_terminal() {
                    self.line(now, node, &format!("load {words}"))?;
                }
                self.change(node, |kept| kept.load.clone_from(words));
            }
            News::Happened { words, weight } => {
                let words = match weight {
                    Weight::Plain => words.clone(),
                    Weight::Good => self.out.paint(Tone::Good, words),
                    Weight::Warn => self.out.paint(Tone::Warn, words),
                    Weight::Bad => self.out.paint(Tone::Bad, words),
                };
                self.line(now, node, &words)?;
            }
            News::Nothing => {}
        }
        Ok(())
    }

    fn line(&self, now: &str, node: &str, words: &str) -> Result<(), Failure> {
        let time = now.get(11..19).unwrap_or(now);
        self.bars.suspend(|| self.out.line(&format!("{} {node} {words}", self.out.paint(Tone::Dim, time))))
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Node)) {
        if !self.nodes.contains_key(name) {
            if self.nodes.len() >= NODES_SHOWN_MAX {
                return;
            }
            let bar = self.bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            let node = Node { bar, mode: String::new(), words: String::new(), load: String::new() };
            self.nodes.insert(name.to_owned(), node);
        }
        if let Some(node) = self.nodes.get_mut(name) {
            change(node);
            node.bar.set_message(format!("{name}  {:9} {:20} {}", node.mode, node.load, node.words));
            node.bar.tick();
        }
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        self.nodes.values().for_each(|node| node.bar.finish());
    }
}

fn tone(mode: &str) -> Tone {
    match mode {
        "trough" => Tone::Good,
        "blind" | "offline" => Tone::Bad,
        _ => Tone::Warn,
    }
}
