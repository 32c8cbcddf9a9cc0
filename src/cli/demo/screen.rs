//! Who is watching? A terminal gets a live picture, a pipe one plain line for each event.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Event;
use super::scene::{BARS, Bar, Scene, cut, describe_yield};
use crate::jobs::job::State;
use crate::sim::controller::News;
use crate::units::{Instant, Utilization};

/// Shortest time between two pictures: the demo must not take the CPU from what it shows.
const PICTURE_PAUSE: Duration = Duration::from_millis(80);
/// Pictures a second that indicatif may draw at most.
const DRAWS_PER_SECOND: u8 = 12;
/// Width assumed when the terminal does not tell.
const WIDTH: usize = 100;
/// Longest plain line about a job, in characters.
const LINE_CHARS_MAX: usize = 160;

/// Where the demo is shown.
#[derive(Debug)]
pub(super) struct Screen {
    scene: Scene,
    busy_above: Utilization,
    idle_below: Utilization,
    medium: Medium,
}

#[derive(Debug)]
enum Medium {
    Live { bars: MultiProgress, picture: ProgressBar, jobs: Vec<ProgressBar>, drawn: Instant },
    Plain { to: Stream, level: Option<Level>, mode: String },
}

/// Standard output, or standard error when standard output is for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

impl Stream {
    fn is_terminal(self) -> bool {
        match self {
            Self::Out => io::stdout().is_terminal(),
            Self::Error => io::stderr().is_terminal(),
        }
    }

    /// Writes one line; a reader that went away does not end the demo.
    pub(super) fn line(self, line: &str) {
        let _ = match self {
            Self::Out => writeln!(io::stdout(), "{line}"),
            Self::Error => writeln!(io::stderr(), "{line}"),
        };
    }
}

impl Screen {
    /// A live picture when the stream is a terminal that can show one, plain lines otherwise.
    pub(super) fn open(to: Stream, busy_above: Utilization, idle_below: Utilization, now: Instant) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let scene = Scene::new(busy_above, idle_below, colour);
        let medium = if to.is_terminal() && !dumb {
            live(to, &scene, now)
        } else {
            Medium::Plain { to, level: None, mode: String::new() }
        };
        Self { scene, busy_above, idle_below, medium }
    }

    /// Shows what happened.
    pub(super) fn show(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Load { index, load } => self.scene.load(*index, *load),
            Event::News(news) => self.scene.news(news),
            Event::Interrupted => self.scene.cut_short(),
        }
        self.plain(event);
        self.draw(now, false);
    }

    /// Draws the picture when the last one is old enough, or `always`.
    pub(super) fn draw(&mut self, now: Instant, always: bool) {
        let Medium::Live { picture, jobs, drawn, .. } = &mut self.medium else { return };
        if !always && now.since(*drawn) < PICTURE_PAUSE {
            return;
        }
        *drawn = now;
        picture.set_message(self.scene.lines(terminal_width()).join("\n"));
        for (slot, bar) in jobs.iter().enumerate() {
            let (title, status, done, total) = match self.scene.bars.get(slot) {
                Some(Bar { title, status, done, total, .. }) => (title.as_str(), status.as_str(), *done, *total),
                None => ("", "", 0, 1),
            };
            bar.set_length(u64::from(total));
            bar.set_position(u64::from(done));
            bar.set_prefix(title.to_owned());
            bar.set_message(status.to_owned());
        }
    }

    /// A sentence that stays.
    pub(super) fn say(&self, line: &str) {
        match &self.medium {
            Medium::Live { bars, .. } => {
                let _ = bars.println(line);
            }
            Medium::Plain { to, .. } => to.line(line),
        }
    }

    /// Leaves the last picture standing.
    pub(super) fn close(&mut self, now: Instant) {
        self.draw(now, true);
        if let Medium::Live { picture, jobs, .. } = &self.medium {
            jobs.iter().for_each(ProgressBar::finish_and_clear);
            picture.abandon();
        }
    }

    fn plain(&mut self, event: &Event) {
        let clock = self.scene.clock();
        let limits = (self.busy_above, self.idle_below);
        let Medium::Plain { to, level, mode } = &mut self.medium else { return };
        let line = match event {
            Event::Load { load, .. } => {
                let now = Level::of(*load, limits, *level);
                let changed = level.replace(now) != Some(now);
                changed.then(|| format!("load {:<6} {}", load.to_string(), now.as_str()))
            }
            // The node repeats its state with every job that starts or ends.
            Event::News(News::State { mode: same, .. }) if same == mode => None,
            Event::News(news) => {
                if let News::State { mode: new, .. } = news {
                    new.clone_into(mode);
                }
                describe(news)
            }
            Event::Interrupted => Some("interrupted: ending the day early".to_owned()),
        };
        if let Some(line) = line {
            to.line(&cut(&format!("{clock}  {line}"), LINE_CHARS_MAX));
        }
    }
}

/// How the load stands to the node's limits; between them it is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Busy,
    Idle,
}

impl Level {
    fn of(load: Utilization, (busy_above, idle_below): (Utilization, Utilization), before: Option<Self>) -> Self {
        if load >= busy_above {
            Self::Busy
        } else if load < idle_below {
            Self::Idle
        } else {
            before.unwrap_or(Self::Busy)
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Idle => "idle",
        }
    }
}

/// News as a plain line; what would only fill the pipe has none.
fn describe(news: &News) -> Option<String> {
    match news {
        News::Link { up: true, .. } => Some("controller connected".to_owned()),
        News::Link { up: false, why } => Some(format!("controller disconnected: {why}")),
        News::State { mode, reason } => Some(format!("node {mode}: {reason}")),
        News::Submitted { .. } | News::Progress { .. } => None,
        News::Ended { id, state, sights } => {
            let what = match sights.as_slice() {
                [] => state.as_str().to_owned(),
                [only] => only.to_string(),
                [first, ..] => format!("{} items, the first {first}", sights.len()),
            };
            Some(format!("{} {id}  {what}", if *state == State::Succeeded { "done" } else { "ended" }))
        }
        News::Yield(yielded) => Some(describe_yield(yielded)),
        News::Note(note) => Some(note.clone()),
    }
}

fn live(to: Stream, scene: &Scene, now: Instant) -> Medium {
    let target = match to {
        Stream::Out => ProgressDrawTarget::stdout_with_hz(DRAWS_PER_SECOND),
        Stream::Error => ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND),
    };
    let bars = MultiProgress::with_draw_target(target);
    let style = |template: &str| {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ ")
    };
    let line = style("{msg}");
    let job = style("{prefix:>34.34} {bar:24} {pos:>3}/{len:<3} {msg}");
    let add = |style: &ProgressStyle| bars.add(ProgressBar::new(1).with_style(style.clone()));
    let picture = add(&line);
    picture.set_message(scene.lines(WIDTH).join("\n"));
    let jobs = (0..BARS).map(|_| add(&job)).collect();
    Medium::Live { bars, picture, jobs, drawn: now }
}

fn terminal_width() -> usize {
    terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_the_limits_the_load_is_what_it_was() {
        let percent = |percent| Utilization::from_percent(percent).unwrap();
        let limits = (percent(40), percent(25));
        let level = |load, before| Level::of(percent(load), limits, before);
        assert_eq!([level(40, Some(Level::Idle)), level(30, Some(Level::Busy))], [Level::Busy, Level::Busy]);
        assert_eq!([level(24, Some(Level::Busy)), level(30, Some(Level::Idle))], [Level::Idle, Level::Idle]);
        assert_eq!(level(30, None), Level::Busy);
    }
}
