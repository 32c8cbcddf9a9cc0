//! Every reading that C11's memory permits, looked at.
//!
//! # The model
//!
//! Each word has a history: the values that its one writer stored, in order. Each value carries the *view* that it
//! releases: for each word, the oldest value that a reader which acquires it may still see. A relaxed store carries the
//! view of the last release fence before it, a release store the whole view of the writer. A load takes any value that
//! is not older than the reader's view allows; an acquire load takes over the value's view at once, a relaxed load at the
//! next acquire fence. (The view machine of Kang et al., "A promising semantics for relaxed-memory concurrency", 2017,
//! without promises.)
//!
//! # Why it is enough
//!
//! The writer loads nothing that a reader stores, and a reader stores nothing. So the writer's history is one and the
//! same in every execution; "which steps of the writer has the reader's load overtaken" is the choice of a value from
//! that history, and it is the only choice there is. No cycle of program order and reads-from can exist, which is what
//! promises (loads that take values of stores yet to come) would be needed for. So to run the writer once, and the reader
//! with every combination of choices, is every execution that C11 permits, on any processor.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use super::{Seqlock, Snapshot, Words};

/// For each word, the index of the oldest value that may be seen.
type View = Vec<usize>;

/// An order that somebody forgot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgotten {
    Nothing,
    WritersFence,
    WritersLastStore,
    ReadersFirstLoad,
    ReadersFence,
}

/// Memory as its writer sees it, and the histories that come of it.
struct Written {
    forgotten: Forgotten,
    state: RefCell<Writing>,
}

struct Writing {
    /// By word: values, each with the view that it releases.
    histories: Vec<Vec<(u32, View)>>,
    view: View,
    /// The view at the last release fence.
    fenced: View,
}

impl Written {
    fn new(words: usize, forgotten: Forgotten) -> Self {
        let zero = vec![0; words];
        let histories = vec![vec![(0, zero.clone())]; words];
        Self { forgotten, state: RefCell::new(Writing { histories, view: zero.clone(), fenced: zero }) }
    }
}

impl Words for Written {
    fn load(&self, word: usize, _: Ordering) -> u32 {
        self.state.borrow().histories[word].last().unwrap().0
    }

    fn store(&self, word: usize, value: u32, order: Ordering) {
        let state = &mut *self.state.borrow_mut();
        state.view[word] = state.histories[word].len();
        let releases = order == Ordering::Release && self.forgotten != Forgotten::WritersLastStore;
        let mut view = if releases { state.view.clone() } else { state.fenced.clone() };
        view[word] = state.view[word];
        state.histories[word].push((value, view));
    }

    fn fence(&self, order: Ordering) {
        assert_eq!(order, Ordering::Release);
        if self.forgotten != Forgotten::WritersFence {
            let state = &mut *self.state.borrow_mut();
            state.fenced = state.view.clone();
        }
    }
}

/// Memory as one reader sees it, with every choice taken from a list.
struct Reader<'a> {
    histories: &'a [Vec<(u32, View)>],
    forgotten: Forgotten,
    state: RefCell<Reading<'a>>,
}

struct Reading<'a> {
    view: View,
    /// What the next acquire fence takes over.
    pending: View,
    choices: &'a mut Choices,
}

impl Words for Reader<'_> {
    fn load(&self, word: usize, order: Ordering) -> u32 {
        let state = &mut *self.state.borrow_mut();
        let oldest = state.view[word];
        let chosen = oldest + state.choices.choose(self.histories[word].len() - oldest);
        let (value, view) = &self.histories[word][chosen];
        state.view[word] = chosen;
        join(&mut state.pending, view);
        if order == Ordering::Acquire && self.forgotten != Forgotten::ReadersFirstLoad {
            join(&mut state.view, view);
        }
        *value
    }

    fn store(&self, _: usize, _: u32, _: Ordering) {
        panic!("a reader stores nothing: the model rests on it");
    }

    fn fence(&self, order: Ordering) {
        assert_eq!(order, Ordering::Acquire);
        if self.forgotten != Forgotten::ReadersFence {
            let state = &mut *self.state.borrow_mut();
            join(&mut state.view, &state.pending);
        }
    }
}

fn join(view: &mut View, other: &View) {
    view.iter_mut().zip(other).for_each(|(mine, other)| *mine = (*mine).max(*other));
}

/// A path through the tree of choices; the next one is the next leaf to the right.
#[derive(Default)]
struct Choices {
    /// What was chosen, out of how many.
    path: Vec<(usize, usize)>,
    taken: usize,
}

impl Choices {
    fn choose(&mut self, options: usize) -> usize {
        if self.taken == self.path.len() {
            self.path.push((0, options));
        }
        let (chosen, known) = self.path[self.taken];
        assert_eq!(known, options, "the same choices lead to the same place");
        self.taken += 1;
        chosen
    }

    /// False after the last path.
    fn advance(&mut self) -> bool {
        self.taken = 0;
        while let Some((chosen, options)) = self.path.pop() {
            if chosen + 1 < options {
                self.path.push((chosen + 1, options));
                return true;
            }
        }
        false
    }
}

/// What every possible run of a reader gives, when so many readings were written.
fn outcomes<const N: usize>(writes: u32, attempts: u32, forgotten: Forgotten) -> Vec<Option<Snapshot<N>>> {
    let lock = Seqlock::<N> { sequence: 0, first: 1 };
    let written = Written::new(N + 1, forgotten);
    for write in 1..=writes {
        lock.write(&written, [write; N]);
    }
    let histories = written.state.into_inner().histories;
    let (mut outcomes, mut choices) = (Vec::new(), Choices::default());
    loop {
        let (view, pending) = (vec![0; N + 1], vec![0; N + 1]);
        let state = RefCell::new(Reading { view, pending, choices: &mut choices });
        outcomes.push(lock.read(&Reader { histories: &histories, forgotten, state }, attempts));
        if !choices.advance() {
            return outcomes;
        }
    }
}

/// A mixture of two readings, or one under the sequence of another.
fn is_torn<const N: usize>(outcome: &Option<Snapshot<N>>) -> bool {
    outcome.is_some_and(|read| read.words.iter().any(|word| *word != read.sequence / 2))
}

#[test]
fn no_execution_gives_a_mixture_and_every_reading_can_be_seen() {
    let once = outcomes::<3>(3, 1, Forgotten::Nothing);
    let twice = outcomes::<2>(2, 2, Forgotten::Nothing);
    assert!(once.len() > 200 && twice.len() > 100, "{} and {} executions", once.len(), twice.len());
    assert!(!once.iter().any(is_torn));
    assert!(!twice.iter().any(is_torn));
    for write in 0..=3 {
        assert!(once.contains(&Some(Snapshot { sequence: 2 * write, words: [write; 3] })), "reading {write}");
    }
    assert!(once.contains(&None), "a reader in between gives up");
}

/// The check can fail: without any one of the four orders it does.
#[test]
fn without_any_one_of_its_orders_a_mixture_is_found() {
    for forgotten in
        [Forgotten::WritersFence, Forgotten::WritersLastStore, Forgotten::ReadersFirstLoad, Forgotten::ReadersFence]
    {
        assert!(outcomes::<3>(3, 1, forgotten).iter().any(is_torn), "{forgotten:?} is not noticed");
    }
}

/// Memory of one thread, for what a sequence is worth.
struct Plain(RefCell<Vec<u32>>);

impl Words for Plain {
    fn load(&self, word: usize, _: Ordering) -> u32 {
        self.0.borrow()[word]
    }

    fn store(&self, word: usize, value: u32, _: Ordering) {
        self.0.borrow_mut()[word] = value;
    }

    fn fence(&self, _: Ordering) {}
}

#[test]
fn an_odd_sequence_is_never_read_and_the_next_writer_repairs_it() {
    let lock = Seqlock::<2> { sequence: 0, first: 1 };
    let memory = Plain(RefCell::new(vec![7, 1, 2]));
    assert_eq!(lock.read(&memory, 10), None);
    lock.write(&memory, [3, 4]);
    assert_eq!(lock.read(&memory, 1), Some(Snapshot { sequence: 8, words: [3, 4] }));
}

#[test]
fn the_sequence_comes_round() {
    let lock = Seqlock::<1> { sequence: 0, first: 1 };
    let memory = Plain(RefCell::new(vec![u32::MAX - 1, 0]));
    lock.write(&memory, [5]);
    assert_eq!(lock.read(&memory, 1), Some(Snapshot { sequence: 0, words: [5] }));
}
