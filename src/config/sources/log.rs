//! Which keys has a `log` source?

use super::super::read::Section;
use crate::load::Kind;
use crate::load::log::{PATTERN_BYTES_MAX, PATTERN_DEFAULT, Settings};

pub(super) fn log(section: &mut Section<'_, '_>) -> Option<Kind> {
    let pattern = section.text("pattern", PATTERN_BYTES_MAX).unwrap_or_else(|| PATTERN_DEFAULT.to_owned());
    let path = section.path("path");
    let path = section.require("path", path, "\"/var/log/ran/gnb.log\" (a file or a named pipe)")?;
    Some(Kind::Log(Settings { path, pattern }))
}
