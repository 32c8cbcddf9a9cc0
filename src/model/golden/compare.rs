//! How near is a result to the expected one?

use super::{Expected, Values};
use crate::model::manifest::Tolerance;
use crate::tensor::Tensor;

/// How well a result agrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Values that were compared.
    pub compared: usize,
    /// Largest difference, in parts of its output's scale (its largest absolute expected value).
    pub relative_max: f32,
    /// Smallest overlap of a box with the expected one; 1 when there are no boxes.
    pub overlap_min: f32,
}

/// Where a result disagrees.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output {output:?}: {problem}")]
pub struct Mismatch {
    /// Which output.
    pub output: String,
    /// Got, expected, allowed.
    pub problem: String,
}

impl Mismatch {
    fn new(output: &str, problem: impl Into<String>) -> Self {
        Self { output: output.to_owned(), problem: problem.into() }
    }
}

/// Compares a result with what is expected. `boxes` and `scores` are compared as detections: there are as many, and
/// each expected box has one of its own that overlaps enough and has the same label, a score within `absolute` and
/// landmarks within `1 − overlap_min` of the box's sides, whatever their order. Other outputs are compared value by
/// value; outputs that are not expected are not looked at.
///
/// # Errors
/// The first disagreement beyond the tolerance.
pub fn compare(expected: &[Expected], got: &[Tensor], tolerance: &Tolerance) -> Result<Report, Mismatch> {
    let mut report = Report { compared: 0, relative_max: 0.0, overlap_min: 1.0 };
    let named = |name: &str| expected.iter().any(|output| output.name == name);
    let detections = named("boxes") && named("scores");
    if detections {
        boxes(expected, got, tolerance, &mut report)?;
    }
    for output in expected {
        if detections && matches!(output.name.as_str(), "boxes" | "scores" | "labels" | "landmarks") {
            continue;
        }
        let tensor = find(got, &output.name)?;
        if tensor.datatype != output.datatype || tensor.shape != output.shape {
            let problem =
                format!("got {} {:?}, expected {} {:?}", tensor.datatype, tensor.shape, output.datatype, output.shape);
            return Err(Mismatch::new(&output.name, problem));
        }
        match &output.values {
            Values::Numbers(values) => numbers(output, values, tensor, tolerance, &mut report)?,
            Values::Texts(texts) => self::texts(output, texts, tensor, &mut report)?,
        }
    }
    Ok(report)
}

fn find<'a>(got: &'a [Tensor], name: &str) -> Result<&'a Tensor, Mismatch> {
    got.iter().find(|tensor| tensor.name == name).ok_or_else(|| Mismatch::new(name, "is missing"))
}

fn numbers(
    output: &Expected,
    values: &[f32],
    tensor: &Tensor,
    tolerance: &Tolerance,
    report: &mut Report,
) -> Result<(), Mismatch> {
    let got = tensor.to_f32s().ok_or_else(|| Mismatch::new(&output.name, "is not FP32"))?;
    let scale = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let allowed = tolerance.absolute + tolerance.relative * scale;
    let places = (0..got.len()).step_by(output.every);
    if places.len() != values.len() {
        let problem = format!("got {} values, expected {}", places.len(), values.len());
        return Err(Mismatch::new(&output.name, problem));
    }
    for (place, expected) in places.zip(values) {
        let difference = (got[place] - expected).abs();
        // Not a number is never near.
        if difference.is_nan() || difference > allowed {
            let problem = format!(
                "element {place} is {}, expected {expected}: {difference} apart, {allowed} is allowed",
                got[place]
            );
            return Err(Mismatch::new(&output.name, problem));
        }
        report.compared += 1;
        if scale > 0.0 {
            report.relative_max = report.relative_max.max(difference / scale);
        }
    }
    Ok(())
}

fn texts(output: &Expected, texts: &[String], tensor: &Tensor, report: &mut Report) -> Result<(), Mismatch> {
    let got = strings(tensor)?;
    if got != *texts {
        return Err(Mismatch::new(&output.name, format!("got {got:?}, expected {texts:?}")));
    }
    report.compared += got.len();
    Ok(())
}

fn strings(tensor: &Tensor) -> Result<Vec<String>, Mismatch> {
    let strings = tensor.to_strings().ok_or_else(|| Mismatch::new(&tensor.name, "is not BYTES"))?;
    Ok(strings.into_iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect())
}

/// Boxes with everything that belongs to them, row by row.
struct Boxes {
    corners: Vec<[f32; 4]>,
    scores: Vec<f32>,
    labels: Option<Vec<String>>,
    landmarks: Option<Vec<f32>>,
}

impl Boxes {
    fn expected(outputs: &[Expected]) -> Result<Self, Mismatch> {
        let values = |name: &str| outputs.iter().find(|output| output.name == name).map(|output| &output.values);
        let numbers = |name: &str| match values(name) {
            Some(Values::Numbers(numbers)) => Some(numbers.clone()),
            Some(Values::Texts(_)) | None => None,
        };
        let labels = match values("labels") {
            Some(Values::Texts(texts)) => Some(texts.clone()),
            Some(Values::Numbers(_)) | None => None,
        };
        let boxes = numbers("boxes").unwrap_or_default();
        Self::new(&boxes, numbers("scores").unwrap_or_default(), labels, numbers("landmarks"))
    }

    /// The same parts as the expected boxes have.
    fn got(got: &[Tensor], expected: &Self) -> Result<Self, Mismatch> {
        let numbers = |name: &str| find(got, name)?.to_f32s().ok_or_else(|| Mismatch::new(name, "is not FP32"));
        let labels = expected.labels.as_ref().map(|_| strings(find(got, "labels")?)).transpose()?;
        let landmarks = expected.landmarks.as_ref().map(|_| numbers("landmarks")).transpose()?;
        Self::new(&numbers("boxes")?, numbers("scores")?, labels, landmarks)
    }

    fn new(
        corners: &[f32],
        scores: Vec<f32>,
        labels: Option<Vec<String>>,
        landmarks: Option<Vec<f32>>,
    ) -> Result<Self, Mismatch> {
        let (corners, rest) = corners.as_chunks::<4>();
        let count = corners.len();
        let whole = rest.is_empty()
            && scores.len() == count
            && labels.as_ref().is_none_or(|labels| labels.len() == count)
            && landmarks.as_ref().is_none_or(|points| points.len() == count * 10);
        if !whole {
            return Err(Mismatch::new("boxes", "boxes, scores, labels and landmarks are not equally many"));
        }
        Ok(Self { corners: corners.to_vec(), scores, labels, landmarks })
    }

    fn label(&self, at: usize) -> &str {
        self.labels.as_ref().and_then(|labels| labels.get(at)).map_or("", String::as_str)
    }

    fn describe(&self) -> String {
        let row = |(at, score): (usize, &f32)| format!("{} {score:.2} {:.0?}", self.label(at), self.corners[at]);
        let rows: Vec<String> = self.scores.iter().enumerate().map(row).collect();
        if rows.is_empty() { "none".to_owned() } else { rows.join(", ") }
    }
}

fn boxes(expected: &[Expected], got: &[Tensor], tolerance: &Tolerance, report: &mut Report) -> Result<(), Mismatch> {
    let expected = Boxes::expected(expected)?;
    let got = Boxes::got(got, &expected)?;
    let mut free: Vec<usize> = (0..got.corners.len()).collect();
    for (at, corners) in expected.corners.iter().enumerate() {
        let nearest = free
            .iter()
            .enumerate()
            .filter(|(_, other)| got.label(**other) == expected.label(at))
            .map(|(place, other)| (place, *other, overlap(corners, &got.corners[*other])))
            .max_by(|a, b| a.2.total_cmp(&b.2));
        let Some((place, other, overlap)) = nearest.filter(|(_, _, overlap)| *overlap >= tolerance.overlap_min) else {
            let problem = format!(
                "no {} overlaps {corners:.0?} by {} or more; got {}",
                expected.label(at),
                tolerance.overlap_min,
                got.describe()
            );
            return Err(Mismatch::new("boxes", problem));
        };
        free.swap_remove(place);
        report.overlap_min = report.overlap_min.min(overlap);
        let difference = (got.scores[other] - expected.scores[at]).abs();
        if difference.is_nan() || difference > tolerance.absolute {
            let problem = format!(
                "{} {} where {} is expected, {} apart is allowed",
                expected.label(at),
                got.scores[other],
                expected.scores[at],
                tolerance.absolute
            );
            return Err(Mismatch::new("scores", problem));
        }
        landmarks(&expected, at, &got, other, tolerance)?;
        report.compared += 1;
        report.relative_max = report.relative_max.max(difference / expected.scores[at].abs().max(f32::MIN_POSITIVE));
    }
    if free.is_empty() {
        return Ok(());
    }
    let problem = format!("got {}, expected {}", got.describe(), expected.describe());
    Err(Mismatch::new("boxes", problem))
}

fn landmarks(expected: &Boxes, at: usize, got: &Boxes, other: usize, tolerance: &Tolerance) -> Result<(), Mismatch> {
    let (Some(wanted), Some(found)) = (&expected.landmarks, &got.landmarks) else { return Ok(()) };
    let corners = expected.corners[at];
    let slack = 1.0 - tolerance.overlap_min;
    let allowed = [(corners[2] - corners[0]) * slack, (corners[3] - corners[1]) * slack];
    for point in 0..10 {
        let (wanted, found) = (wanted[at * 10 + point], found[other * 10 + point]);
        let difference = (wanted - found).abs();
        if difference.is_nan() || difference > allowed[point % 2] {
            let problem =
                format!("coordinate {point} is {found}, expected {wanted}, {} is allowed", allowed[point % 2]);
            return Err(Mismatch::new("landmarks", problem));
        }
    }
    Ok(())
}

/// Intersection over union.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |c: &[f32; 4]| (c[2] - c[0]).max(0.0) * (c[3] - c[1]).max(0.0);
    let shared = area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}
