use super::*;

#[test]
fn settings_that_cannot_work_are_refused_with_key_and_limit() {
    let settings = |path: &str, pattern: &str| Settings { path: path.into(), pattern: pattern.to_owned() };
    assert!(check(&settings("/var/log/gnb.log", PATTERN_DEFAULT), false).is_ok());
    for (bad, words) in [
        (settings("gnb.log", PATTERN_DEFAULT), "path gnb.log"),
        (settings("/gnb.log", " "), "not only spaces"),
        (settings("/gnb.log", "two\nlines"), "one line"),
        (settings("/gnb.log", &"x".repeat(257)), "1 to 256 bytes"),
    ] {
        let refused = check(&bad, false).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}
