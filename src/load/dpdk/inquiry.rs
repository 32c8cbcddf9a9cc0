//! What would this source see right now? For people who set it up.

use std::time::Duration;

use super::socket::{Connection, SUFFIX_MAX, connected, find, process_name};
use super::{Settings, all_missed, neighbour, replies};
use crate::sys::clock;

/// For so long at most.
const INQUIRY_MAX: Duration = Duration::from_secs(1);

/// Asks the application once, and says what it told, or what stands in the way and which neighbours there are.
///
/// # Errors
/// A sentence: no load can be had, and why.
pub fn inquire(settings: &Settings) -> Result<String, String> {
    let until = clock::now().after(INQUIRY_MAX);
    let mut connection = find(settings, until, &clock::now).map_err(|why| format!("{why}{}", neighbours(settings)))?;
    let told = tell(&mut connection, settings, until);
    let (path, info) = (connection.path().display(), connection.info());
    let who = format!("{path}: {}, process {}", info.version, info.pid);
    told.map(|told| format!("{who}, {told}")).map_err(|why| format!("{who}: {why}{}", neighbours(settings)))
}

fn tell(
    connection: &mut Connection,
    settings: &Settings,
    until: crate::units::Instant,
) -> Result<String, &'static str> {
    let usage = replies::usage(connection.ask(replies::USAGE, until, &clock::now)?)?;
    let lcores: Vec<u32> = usage.lcores().map(|(id, ..)| id).collect();
    if let Some(missing) = settings.lcores.iter().find(|wanted| !lcores.contains(wanted)) {
        return Ok(format!("lcores {lcores:?} tell their usage, but lcore {missing} of the configuration does not"));
    }
    let missed = all_missed(connection, &settings.ports, until, &clock::now)?;
    let missed = missed.map_or("no ports".to_owned(), |missed| format!("{missed} missed frames"));
    Ok(format!("lcores {lcores:?} tell their usage, {missed}"))
}

/// The other processes of the same prefix, if there are any.
fn neighbours(settings: &Settings) -> String {
    let paths = (0..=SUFFIX_MAX).map(|suffix| neighbour(&settings.socket, suffix));
    let others = paths.filter_map(|path| {
        let socket = connected(&path).ok()?;
        let name = process_name(&socket).unwrap_or_else(|| "a process that cannot be seen".to_owned());
        Some(format!("{} ({})", path.display(), name.escape_debug()))
    });
    let others: Vec<String> = others.collect();
    if others.is_empty() { String::new() } else { format!("; these sockets answer: {}", others.join(", ")) }
}
