//! What does a result say, in words? From the names that interpreted outputs have.

use crate::tensor::Tensor;

/// Most things named of one result.
const NAMED_MAX: usize = 4;
/// Longest text quoted, in characters.
const QUOTED_MAX: usize = 60;

/// One line about a result, e.g. `motorcycle 0.83, 2 × person 0.77`.
pub fn seen(outputs: &[Tensor]) -> String {
    let named = |name: &str| outputs.iter().find(|output| output.name == name);
    let scores = named("scores").and_then(Tensor::to_f32s).unwrap_or_default();
    if let Some(segments) = named("segments").and_then(Tensor::to_f32s) {
        return speech(&segments);
    }
    if let Some(text) = named("text").and_then(Tensor::to_strings) {
        let text = text.iter().map(|part| clean(part)).collect::<Vec<_>>().join(" ");
        return format!("reads “{}”", text.chars().take(QUOTED_MAX).collect::<String>());
    }
    if named("landmarks").is_some() {
        return counted("face", &scores);
    }
    if let Some(labels) = named("labels").and_then(Tensor::to_strings) {
        let labels: Vec<String> = labels.iter().map(|label| clean(label)).collect();
        // A label that comes twice belongs to several rows, not to a ranking of classes.
        let repeats = labels.iter().enumerate().any(|(at, label)| labels[..at].contains(label));
        let is_list = repeats || named("boxes").is_some();
        return if is_list { objects(&labels, &scores) } else { classes(&labels, &scores) };
    }
    let figures: Vec<String> = outputs.iter().take(NAMED_MAX).map(figure).collect();
    if figures.is_empty() { "nothing".to_owned() } else { figures.join(", ") }
}

/// Labelled boxes: each label once, best score first, with how many there are.
fn objects(labels: &[String], scores: &[f32]) -> String {
    let mut kinds: Vec<(&str, usize, f32)> = Vec::new();
    for (label, &score) in labels.iter().zip(scores) {
        match kinds.iter_mut().find(|(kind, _, _)| kind == label) {
            Some((_, count, best)) => (*count, *best) = (*count + 1, best.max(score)),
            None => kinds.push((label, 1, score)),
        }
    }
    if kinds.is_empty() {
        return "nothing it knows".to_owned();
    }
    kinds.sort_by(|a, b| b.2.total_cmp(&a.2));
    let words = kinds.iter().take(NAMED_MAX).map(|(label, count, score)| match count {
        1 => format!("{label} {score:.2}"),
        _ => format!("{count} × {label} {score:.2}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Classes of the whole medium: the best, and the next when it is a close race.
fn classes(labels: &[String], scores: &[f32]) -> String {
    let mut pairs: Vec<(&String, f32)> = labels.iter().zip(scores.iter().copied()).collect();
    pairs.sort_by(|a, b| b.1.total_cmp(&a.1));
    let Some(&(label, score)) = pairs.first() else { return "no class".to_owned() };
    match pairs.get(1) {
        Some((next, close)) if *close > score / 2.0 => format!("{label} {score:.2} or {next} {close:.2}"),
        Some(_) | None => format!("{label} {score:.2}"),
    }
}

fn counted(what: &str, scores: &[f32]) -> String {
    let best = scores.iter().copied().fold(0.0_f32, f32::max);
    match scores.len() {
        0 => format!("no {what}"),
        1 => format!("1 {what} {best:.2}"),
        count => format!("{count} {what}s, best {best:.2}"),
    }
}

fn speech(segments: &[f32]) -> String {
    let spans = segments.as_chunks::<2>().0;
    if spans.is_empty() {
        return "no speech".to_owned();
    }
    let words = spans.iter().take(NAMED_MAX).map(|[start, end]| format!("{start:.1}–{end:.1} s"));
    format!("speech {}", words.collect::<Vec<_>>().join(", "))
}

/// A plain tensor: one number, or the first and the last.
fn figure(tensor: &Tensor) -> String {
    let values = tensor.to_f32s().unwrap_or_default();
    match (values.first(), values.last(), tensor.datatype) {
        (Some(only), _, _) if values.len() == 1 => format!("{} {only:.2}", tensor.name),
        (Some(first), Some(last), _) => format!("{} {first:.2} … {last:.2}", tensor.name),
        (_, _, datatype) => format!("{} {datatype} {:?}", tensor.name, tensor.shape),
    }
}

/// Text of a result without control characters: it goes to a terminal.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::f32s(name, shape.to_vec(), values).unwrap()
    }

    #[test]
    fn objects_are_counted_by_kind_and_named_best_first() {
        let outputs = [
            f32s("boxes", &[3, 4], &[0.0; 12]),
            f32s("scores", &[3], &[0.61, 0.83, 0.77]),
            Tensor::strings("labels", &["person", "motorcycle", "person"]),
        ];
        assert_eq!(seen(&outputs), "motorcycle 0.83, 2 × person 0.77");
        let none: [&str; 0] = [];
        let empty = [f32s("boxes", &[0, 4], &[]), f32s("scores", &[0], &[]), Tensor::strings("labels", &none)];
        assert_eq!(seen(&empty), "nothing it knows");
    }

    #[test]
    fn faces_speech_text_and_classes_have_their_own_words() {
        let faces =
            [f32s("boxes", &[1, 4], &[0.0; 4]), f32s("scores", &[1], &[0.9]), f32s("landmarks", &[1, 10], &[0.0; 10])];
        assert_eq!(seen(&faces), "1 face 0.90");
        let speech = [f32s("segments", &[2, 2], &[0.5, 1.25, 2.0, 3.0]), f32s("scores", &[2], &[0.9, 0.8])];
        assert_eq!(seen(&speech), "speech 0.5–1.2 s, 2.0–3.0 s");
        assert_eq!(seen(&[Tensor::strings("text", &["EXIT"])]), "reads “EXIT”");
        let classes = [f32s("scores", &[2], &[0.97, 0.01]), Tensor::strings("labels", &["png", "jpeg"])];
        assert_eq!(seen(&classes), "png 0.97");
        let rows =
            [f32s("scores", &[3], &[0.2, 4.1, 0.3]), Tensor::strings("labels", &["normal", "anomaly", "normal"])];
        assert_eq!(seen(&rows), "anomaly 4.10, 2 × normal 0.30");
    }

    #[test]
    fn plain_tensors_are_shown_by_their_ends() {
        assert_eq!(seen(&[f32s("q50", &[3], &[0.1, 0.2, 0.3])]), "q50 0.10 … 0.30");
        assert_eq!(seen(&[f32s("score", &[1], &[4.0])]), "score 4.00");
        assert_eq!(seen(&[]), "nothing");
    }

    #[test]
    fn labels_cannot_steer_the_terminal() {
        let outputs = [f32s("scores", &[1], &[0.5]), Tensor::strings("labels", &["\x1b[2Jevil"])];
        assert_eq!(seen(&outputs), " [2Jevil 0.50");
    }
}
