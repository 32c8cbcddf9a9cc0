//! How much core time will a node have free? `neap outlook`: what the node itself expects, as a picture.

use std::time::Duration;

use serde_json::Value;

use super::failure::{Class, Failure};
use super::out::{Out, Tone, clean};
use super::session::Session;
use super::span::{self, Span};
use super::target::Target;
use crate::link::messages::{Capacity, ForecastError};
use crate::units::WallTime;
use crate::units::outlook::{Free, Quantile};

/// The broker hands over what it keeps at once.
const WAIT: Duration = Duration::from_secs(5);
/// Width of a full bar, in characters.
const BAR: u32 = 40;

/// Arguments of `neap outlook`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap outlook --node north/cell-17
  neap outlook --config /etc/neap/neap.toml
  neap outlook --node north/cell-17 --json | jq '.p10_s | add / 3600'      core hours that are all but sure

One line for each span: in nine of ten cases at least p10 is free, p50 as often as not, p90 in one of ten. The node has
learned this from its last days; its outlook admits or delays work, and never starts or stops any. Times are UTC.")]
pub(super) struct Args {
    /// The node's message as it is, on one line
    #[arg(long)]
    json: bool,
    /// Give up when the broker has nothing for this long [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = span::positive)]
    timeout: Option<Span>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let place = args.target.resolve()?;
    let node = format!("{}/{}", place.topics.site(), place.topics.node());
    let topic = place.topics.outlook();
    let wait = args.timeout.map_or(WAIT, |Span(span)| span);
    let found = super::block_on(async {
        let mut session = Session::open(place, vec![topic.clone()]).await?;
        let found = session.find(wait, |message| message.topic == topic && !message.body.is_empty()).await;
        session.close().await;
        found
    })?;
    let Some(message) = found else {
        let text = format!(
            "the broker has no outlook of node {node} after {} s: is it online, is its clock right, and is [forecast] \
             enabled there? An outlook ends with its last span; check --node and --root",
            wait.as_secs_f64()
        );
        return Err(Failure::new(Class::Unavailable, text));
    };
    let bad = |error: String| Failure::new(Class::Data, error);
    let capacity = Capacity::parse(&message.body).map_err(|error| bad(error.to_string()))?;
    let out = Out::stdout();
    if args.json {
        let value: Value = serde_json::from_slice(&message.body).map_err(|error| bad(error.to_string()))?;
        return out.json(&value);
    }
    picture(&out, &node, &capacity)
}

fn picture(out: &Out, node: &str, capacity: &Capacity) -> Result<(), Failure> {
    let Capacity { workers, outlook, days, errors, at, .. } = capacity;
    let head = format!("node {node}: free time of {workers} cores as of {}; learned from {days} days", short(*at));
    out.line(&out.paint(Tone::Strong, &head))?;
    if *days < 3 {
        out.line(&out.paint(Tone::Warn, "with fewer than three days little is known: take it for a guess"))?;
    }
    out.line(&out.paint(Tone::Dim, "UTC         p10      p50      p90"))?;
    let whole = outlook.span() * *workers;
    for (index, free) in (0_u32..).zip(outlook.spans()) {
        let begin = outlook.from().after(outlook.span() * index);
        let spans = [free.p10, free.p50, free.p90].map(|time| format!("{:>8}", core_time(time)));
        out.line(&format!("{} {} {}", &short(begin)[11..], spans.join(" "), bar(free, whole)))?;
    }
    let all = |quantile| core_time(outlook.core_time(outlook.from(), outlook.end(), quantile));
    let [p10, p50, p90] = [Quantile::P10, Quantile::P50, Quantile::P90].map(all);
    out.line(&format!("all   {p10:>8} {p50:>8} {p90:>8} of {}", core_time(whole * spans(capacity))))?;
    out.line(
        &out.paint(Tone::Dim, "error of the load's forecast of late, and for each of that of \"stays as it is\":"),
    )?;
    errors.iter().try_for_each(|error| out.line(&error_line(error)))
}

fn spans(capacity: &Capacity) -> u32 {
    u32::try_from(capacity.outlook.spans().len()).unwrap_or(u32::MAX)
}

/// Date and time to the minute.
fn short(at: WallTime) -> String {
    at.to_string().chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// Core time for people.
fn core_time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 7200.0 { format!("{:.1}min", seconds / 60.0) } else { format!("{:.1}h", seconds / 3600.0) }
}

/// Full as far as is all but sure, half full as far as is as likely as not, a trace as far as is possible.
fn bar(free: &Free, whole: Duration) -> String {
    let width = |time: Duration| {
        let whole = whole.as_millis().max(1);
        let share = (time.as_millis() * u128::from(BAR) + whole / 2) / whole;
        usize::try_from(share.min(u128::from(BAR))).unwrap_or(0)
    };
    let [p10, p50, p90] = [free.p10, free.p50, free.p90].map(width);
    let bar = ["█".repeat(p10), "▒".repeat(p50.saturating_sub(p10)), "░".repeat(p90.saturating_sub(p50.max(p10)))];
    bar.concat()
}

fn error_line(error: &ForecastError) -> String {
    let ahead = error.horizon.as_secs() / 60;
    let size = error.error_permille.map_or_else(|| "–".to_owned(), |permille| format!("{:.1} %", permille / 10.0));
    let ratio = error.persistence_ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
    format!("{ahead:>4} min ahead {size:>8} {ratio:>6}  {}", clean(&error.method, 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_the_time_is() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let free = Free { p10: minutes(3), p50: minutes(6), p90: minutes(15) };
        let bar = bar(&free, minutes(30));
        assert_eq!(bar, format!("{}{}{}", "█".repeat(4), "▒".repeat(4), "░".repeat(12)));
        assert_eq!(super::bar(&Free::default(), minutes(0)), "");
        let crossed = Free { p10: minutes(90), p50: minutes(3), p90: minutes(1) };
        assert_eq!(super::bar(&crossed, minutes(30)).chars().count(), 40);
    }

    #[test]
    fn times_read_as_people_say_them() {
        assert_eq!(core_time(Duration::from_secs(90)), "1.5min");
        assert_eq!(core_time(Duration::from_secs(9000)), "2.5h");
        assert_eq!(short(WallTime::from_millis(1_767_571_200_000)), "2026-01-05 00:00");
    }
}
