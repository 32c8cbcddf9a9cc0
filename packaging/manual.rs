//! What do the manual pages and completions say? Exactly what the commands themselves say.
//!
//! `cargo run --example manual -- FOLDER` writes `FOLDER/man/neap.1`, one page for each command, `neap.toml.5`, and
//! `FOLDER/completions/` for bash, zsh and fish. The same sources give the same bytes: nothing of it has a date.
//! Commands that only some builds have are left out with `--without NAME`: a node's build has no demo.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;
use clap_mangen::Man;

/// The configuration as it is shipped: every key with its meaning.
const CONFIGURATION: &str = include_str!("../config/neap.toml");
/// What stands at the foot of every page.
const SOURCE: &str = concat!("neap ", env!("CARGO_PKG_VERSION"));
/// What stands at the head of every page.
const MANUAL: &str = "Neap";

/// Entry point of the example.
#[allow(dead_code, reason = "a test includes this file for its functions")]
fn main() -> ExitCode {
    let mut folder = None;
    let mut without = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--without") => without.extend(arguments.next().and_then(|name| name.into_string().ok())),
            _ => folder = Some(PathBuf::from(argument)),
        }
    }
    let Some(folder) = folder else {
        eprintln!("usage: manual FOLDER [--without COMMAND]...");
        return ExitCode::from(64);
    };
    match write_all(&folder, &without) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            ExitCode::from(74)
        }
    }
}

/// Writes pages and completions below a folder, but for the commands of these names.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write_all(folder: &Path, without: &[String]) -> io::Result<()> {
    let (pages, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let mut command = shown(&neap::cli::command(), without);
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), "neap", &completions)?;
    }
    command.build();
    write_pages(&command, &pages)?;
    fs::write(pages.join("neap.toml.5"), page_of_the_configuration(CONFIGURATION))
}

/// The command with what a person is shown of it: no hidden subcommands, none of these names, no `help` beside `--help`.
fn shown(command: &clap::Command, without: &[String]) -> clap::Command {
    let is_kept = |below: &&clap::Command| !below.is_hide_set() && !without.iter().any(|name| name == below.get_name());
    let mut kept = clap::Command::new("neap").version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    if let Some(about) = command.get_about() {
        kept = kept.about(about.clone());
    }
    if let Some(after) = command.get_after_help() {
        let is_told = |line: &&str| !without.iter().any(|name| line.trim().starts_with(&format!("neap {name} ")));
        kept = kept.after_help(after.to_string().lines().filter(is_told).collect::<Vec<_>>().join("\n"));
    }
    let below = command.get_subcommands().filter(is_kept).cloned().map(|below| below.disable_help_subcommand(true));
    kept.args(command.get_arguments().cloned()).subcommands(below)
}

/// One page for the command and one for each command below it.
fn write_pages(command: &clap::Command, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, folder)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    fs::write(folder.join(format!("{name}.1")), page_of(command, &name)?)
}

fn page_of(command: &clap::Command, name: &str) -> io::Result<String> {
    let man = Man::new(command.clone());
    let mut page = title(&name.to_uppercase(), 1).into_bytes();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    // Line by line, as in --help: examples are commands to be copied.
    if let Some(after) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        page.extend(literal_sections(&after.to_string()).into_bytes());
    }
    page.extend_from_slice(b".SH \"SEE ALSO\"\n");
    page.extend(see_also(name).into_bytes());
    Ok(plain(&String::from_utf8_lossy(&page)))
}

/// The head of a page; the empty word is its date.
fn title(name: &str, section: u8) -> String {
    format!(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH {name} {section} \"\" \"{SOURCE}\" \"{MANUAL}\"\n")
}

/// Letters that not every roff reads, by their number.
fn plain(page: &str) -> String {
    let letter = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(letter).collect()
}

/// Every paragraph whose first line ends with a colon becomes a section of its own.
fn literal_sections(text: &str) -> String {
    let (mut out, mut last) = (String::new(), String::new());
    for paragraph in text.split("\n\n") {
        let (heading, body) = match paragraph.split_once('\n') {
            Some((first, rest)) if first.ends_with(':') => (first.trim_end_matches(':').to_uppercase(), rest),
            _ => match paragraph.split_once(": ") {
                Some((first, rest)) if first.len() <= 20 => (first.to_uppercase(), rest),
                _ => ("NOTES".to_owned(), paragraph),
            },
        };
        // Several remarks are one section.
        if heading == last {
            out += ".PP\n";
        } else {
            out += &format!(".SH \"{}\"\n", escaped(&heading));
        }
        let lines: Vec<&str> = body.lines().collect();
        // What is indented is to be copied; the rest are sentences.
        if lines.iter().any(|line| line.starts_with("  ")) {
            let literal = |line: &&str| guarded(&escaped(line.strip_prefix("  ").unwrap_or(line))) + "\n";
            out += &format!(".nf\n{}.fi\n", lines.iter().map(literal).collect::<String>());
        } else {
            out += &filled(&lines);
        }
        last = heading;
    }
    out
}

fn see_also(name: &str) -> String {
    let above = if name == "neap" { String::new() } else { ".BR neap (1),\n".to_owned() };
    format!("{above}.BR neap.toml (5)\n")
}

/// The page of the configuration: its sections, its keys with their defaults, and what is said above each.
fn page_of_the_configuration(text: &str) -> String {
    let mut page = title("NEAP.TOML", 5);
    page += ".SH NAME\nneap.toml \\- what a node of Neap is told\n";
    page += ".SH SYNOPSIS\n.I /etc/neap/neap.toml\n.SH DESCRIPTION\n";
    let mut said: Vec<&str> = Vec::new();
    let mut keys: Vec<&str> = Vec::new();
    // An empty line at the end brings out what is still held.
    for line in text.lines().chain([""]) {
        let is_key = is_key(line);
        if !is_key && !keys.is_empty() {
            page += &entry(&keys, &said);
            (keys, said) = (Vec::new(), Vec::new());
        }
        if is_key {
            keys.push(line);
        } else if line.starts_with('[') || line.starts_with("#[") {
            page += &paragraph(&said);
            said.clear();
            page += &format!(".SS \"{}\"\n", escaped(line.trim_start_matches('#')));
        } else if let Some(words) = line.strip_prefix('#') {
            said.push(words.strip_prefix(' ').unwrap_or(words));
        } else if line.is_empty() {
            page += &paragraph(&said);
            said.clear();
        }
    }
    page += ".SH \"SEE ALSO\"\n.BR neap-check (1),\n.BR neap-run (1),\n.BR neap-doctor (1)\n";
    plain(&page)
}

/// Whether a line gives a key a value, in force (`key = 1`) or as an example (`#key = 1`).
fn is_key(line: &str) -> bool {
    let line = line.strip_prefix('#').unwrap_or(line);
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    line.split_once(" = ").is_some_and(|(name, _)| is_name(name))
}

fn entry(keys: &[&str], said: &[&str]) -> String {
    let mut out = String::new();
    for (number, key) in keys.iter().enumerate() {
        let request = if number == 0 { "TP" } else { "TQ" };
        let (line, remark) = match key.strip_prefix('#') {
            Some(line) => (line, " (example)"),
            None => (*key, ""),
        };
        out += &format!(".{request}\n\\fB{}\\fR{remark}\n", escaped(line));
    }
    out + &filled(said)
}

fn paragraph(said: &[&str]) -> String {
    if said.iter().all(|line| line.is_empty()) { String::new() } else { format!(".PP\n{}", filled(said)) }
}

/// Words that the reader's terminal breaks into lines; what is indented stays as it is.
fn filled(said: &[&str]) -> String {
    let mut out = String::new();
    for line in said {
        let is_literal = line.starts_with("  ");
        let request = if line.is_empty() { ".PP\n".to_owned() } else { format!("{}\n", guarded(&escaped(line))) };
        out += &if is_literal { format!(".br\n{request}.br\n") } else { request };
    }
    out
}

/// Text as roff takes it: no letter of it is a command, minus signs can be copied.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('"', "\\(dq")
}

/// A line that would start with a control character starts with nothing instead.
fn guarded(line: &str) -> String {
    if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() }
}
