//! Does a recording say the same after it was read and written?

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::load::push::Line;
use crate::units::Health;

fn reader(text: &str) -> Reader<Cursor<Vec<u8>>> {
    Reader::new(Cursor::new(text.as_bytes().to_vec()), Path::new("day.csv"))
}

fn error_of(text: &str) -> String {
    let found = reader(text).find_map(Result::err);
    found.map_or_else(|| panic!("{text:?} was accepted"), |problem| problem.to_string())
}

/// Reads and writes a recording in another form.
fn convert(text: &str, form: Form) -> (String, Lost) {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, form, u64::MAX).unwrap();
    for entry in reader(text) {
        assert!(writer.entry(&entry.unwrap()).unwrap());
    }
    let lost = writer.lost();
    (String::from_utf8(out).unwrap(), lost)
}

#[test]
fn percentages_with_decimals_are_rounded_up() {
    for (percent, permille) in
        [(0.0, 0), (0.01, 1), (12.3, 123), (12.31, 124), (57.0, 570), (99.91, 1000), (100.0, 1000)]
    {
        assert_eq!(level(percent), Utilization::from_permille(permille), "{percent}");
    }
    for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
        assert_eq!(level(percent), None, "{percent}");
    }
}

#[test]
fn what_was_broken_is_named_with_file_and_line() {
    let long = format!("seconds,percent\n0,1{}\n", " ".repeat(LINE_BYTES_MAX));
    let cases = [
        ("seconds,percent\n0,1\n5,NaN\n", "day.csv:3: percent NaN is not 0 to 100"),
        ("seconds,percent\n5,1\n4,1\n", "day.csv:3: 4 s is before the line above"),
        ("{\"t_s\":1,\"cpu\":1}\n{\"t_s\":2,\"cpu\":101}\n", "day.csv:2: a percentage above 100"),
        ("", "day.csv: is empty"),
        ("seconds,percent\n\n", "day.csv: has a header and no lines"),
        (&long, "day.csv:2: is longer than 65536 bytes"),
    ];
    for (text, expected) in cases {
        let error = error_of(text);
        assert!(error.starts_with(expected), "{error:?}, expected {expected:?}");
    }
    let mut binary = Reader::new(Cursor::new(b"seconds,percent\n0,\xff\n".to_vec()), Path::new("day.csv"));
    assert_eq!(binary.next().unwrap().unwrap_err().to_string(), "day.csv:2: not UTF-8");
    assert!(binary.next().is_none(), "nothing comes after the first problem");
}

#[test]
fn a_recording_above_its_size_is_refused_where_it_is_too_large() {
    let text = "seconds,percent\n0,1\n1,1\n2,1\n";
    let last = reader(text).limited(text.len() as u64 - 1).last().unwrap();
    assert!(last.unwrap_err().to_string().starts_with("day.csv:4: the recording is larger than 2 GiB"));
    assert_eq!(reader(text).limited(text.len() as u64).filter(Result::is_ok).count(), 3);
}

#[test]
fn a_recording_that_is_full_says_so() {
    let mut writer = Writer::new(Vec::new(), Form::Csv, 30).unwrap();
    let entry = Entry { at_s: 1.0, said: Said::Level { cell: CellId(1), level: Utilization::IDLE, rounded: false } };
    assert_eq!((writer.entry(&entry).unwrap(), writer.entry(&entry).unwrap()), (true, false));
    assert_eq!(writer.written(), 1);
}

#[test]
fn csv_says_what_it_cannot_say() {
    let text = "{\"t_s\":1,\"cell\":4,\"RRU.PrbTotDl\":3,\"RRU.PrbTotUl\":5,\"late\":9,\"mono_ns\":1}\n\
                {\"t_s\":2.5,\"cell\":4,\"enqueue_us\":7}\n{\"t_s\":3,\"cell\":4,\"gone\":true}\n";
    let (csv, lost) = convert(text, Form::Csv);
    assert_eq!(csv, "seconds,percent,cell\n1,5,4\n");
    assert_eq!(lost, Lost { late: 1, health: 1, gone: 1, metric: 1, stamps: 1, rounded: 0, lines: 2 });
    assert_eq!(lost.words().len(), 6);
    assert_eq!(convert("seconds,percent\n0,12.3\n", Form::Ndjson).1, Lost { rounded: 1, ..Lost::default() });
    assert_eq!(Lost::default().words(), Vec::<String>::new());
}

fn lines() -> impl Strategy<Value = Line> {
    let percent = || proptest::option::of(0..=100_u8);
    let health = [0; Health::ALL.len()].map(|_| proptest::option::of(any::<u32>()));
    (any::<u64>(), percent(), percent(), percent(), proptest::option::of(any::<u64>()), health, any::<bool>()).prop_map(
        |(cell, dl, ul, cpu, late, health, gone)| {
            let cell = CellId(cell);
            let nothing = [dl, ul, cpu].iter().all(Option::is_none) && late.is_none() && health == [None; 4];
            match gone || nothing {
                true => Line { cell, gone: true, health, ..Line::default() },
                false => Line { cell, dl, ul, cpu, late, health, ..Line::default() },
            }
        },
    )
}

proptest! {
    #[test]
    fn ndjson_comes_back_as_it_was(said in proptest::collection::vec((0..5_000_000_u64, lines()), 1..40)) {
        let mut text = String::new();
        let (mut at, mut one) = (Duration::ZERO, String::new());
        for (micros, line) in &said {
            at += Duration::from_micros(*micros);
            write_line(&mut one, at, line);
            text.push_str(&one);
        }
        prop_assert_eq!(convert(&text, Form::Ndjson), (text, Lost::default()));
    }

    #[test]
    fn csv_comes_back_as_it_was_and_whole_percents_survive_ndjson(
        said in proptest::collection::vec((0..5_000_000_u64, 0..=1000_u16, any::<u64>()), 1..40),
    ) {
        let (mut fine, mut coarse) = (Writer::new(Vec::new(), Form::Csv, 99_999).unwrap(),
            Writer::new(Vec::new(), Form::Csv, 99_999).unwrap());
        let mut at = Duration::ZERO;
        for (micros, permille, cell) in said {
            at += Duration::from_micros(micros);
            let level = |permille| Utilization::from_permille(permille).unwrap();
            fine.level(at, Some((cell, level(permille)))).unwrap();
            coarse.level(at, Some((cell, level(permille / 10 * 10)))).unwrap();
        }
        let [fine, coarse] = [fine, coarse].map(|writer| String::from_utf8(writer.out).unwrap());
        prop_assert_eq!(convert(&fine, Form::Csv), (fine, Lost::default()));
        let (json, lost) = convert(&coarse, Form::Ndjson);
        prop_assert_eq!(lost, Lost::default());
        prop_assert_eq!(convert(&json, Form::Csv), (coarse, Lost::default()));
    }

    #[test]
    fn arbitrary_bytes_end_in_entries_or_one_problem(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let problems = Reader::new(Cursor::new(bytes), Path::new("x")).filter(Result::is_err).count();
        prop_assert!(problems <= 1);
    }
}
