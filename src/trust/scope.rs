//! Does a pattern cover a name? `*` alone, a whole name, or a beginning and `*`.

/// Longest pattern, in characters.
const CHARS_MAX: usize = 130;

/// Whether the pattern can be one.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '*' | '/');
    if pattern.is_empty() || pattern.len() > CHARS_MAX || !pattern.chars().all(legal) {
        let shown: String = pattern.chars().take(40).collect();
        return Err(format!("pattern {shown:?} is not allowed: a name, or the beginning of one and *"));
    }
    if pattern.split('/').any(|part| part.trim_end_matches('*').contains('*') || part.ends_with("**")) {
        return Err(format!("pattern {pattern:?} is not allowed: * stands at the end only"));
    }
    Ok(())
}

/// Whether the pattern covers the name.
pub(super) fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

/// Whether the pattern covers the node: `*`, or one pattern for the site and one for the node with `/` between.
pub(super) fn covers_node(pattern: &str, site: &str, node: &str) -> bool {
    match pattern.split_once('/') {
        Some((sites, nodes)) => covers(sites, site) && covers(nodes, node),
        None => pattern == "*",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_it_says_and_no_more() {
        for (pattern, site, node, covered) in [
            ("*", "north", "cell-17", true),
            ("north/*", "north", "cell-17", true),
            ("north/cell-1*", "north", "cell-17", true),
            ("north/cell-17", "north", "cell-17", true),
            ("north/cell-17", "north", "cell-170", false),
            ("north/*", "northern", "cell-17", false),
            ("*/cell-17", "south", "cell-17", true),
            ("north", "north", "cell-17", false),
            ("nor*", "north", "cell-17", false),
        ] {
            assert_eq!(covers_node(pattern, site, node), covered, "{pattern} {site}/{node}");
        }
        for bad in ["", "a*b", "**", "Nord/*", "a b", "north/+", "north/#"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("north/cell-*").is_ok() && check("*").is_ok());
    }
}
