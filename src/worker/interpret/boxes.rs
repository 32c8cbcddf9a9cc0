//! Which of many overlapping boxes survive? Greedy non-maximum suppression within each class.

use crate::model::manifest::Keep;

/// Most candidates that are compared with each other: the best ones.
const CANDIDATES_MAX: usize = 4096;

/// A box with its class and score, in the network's pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Left, top, right, bottom.
    pub(super) corners: [f32; 4],
    pub(super) score: f32,
    pub(super) class: usize,
    /// Where it came from, for what else belongs to it.
    pub(super) cell: usize,
}

impl Candidate {
    /// A box that has an inside and a score, both finite; `None` for anything else a network may give.
    pub(super) fn new(corners: [f32; 4], score: f32, class: usize, cell: usize) -> Option<Self> {
        let finite = corners.iter().all(|side| side.is_finite()) && score.is_finite();
        (finite && corners[2] > corners[0] && corners[3] > corners[1]).then_some(Self { corners, score, class, cell })
    }
}

/// The candidates that survive, best first.
pub(super) fn suppress(mut candidates: Vec<Candidate>, keep: &Keep) -> Vec<Candidate> {
    candidates.retain(|candidate| candidate.score >= keep.score_min);
    // The cell breaks ties, so that equal scores always give the same result.
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.cell.cmp(&b.cell)));
    candidates.truncate(CANDIDATES_MAX);
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if kept.len() == keep.count_max {
            break;
        }
        let hidden = kept.iter().any(|better| {
            better.class == candidate.class && overlap(&better.corners, &candidate.corners) > keep.overlap_max
        });
        if !hidden {
            kept.push(candidate);
        }
    }
    kept
}

/// Intersection over union of two boxes; 0 when neither has an inside.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |c: &[f32; 4]| (c[2] - c[0]).max(0.0) * (c[3] - c[1]).max(0.0);
    let common = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    let intersection = area(&common);
    let union = area(a) + area(b) - intersection;
    if union > 0.0 { intersection / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep { score_min: 0.3, overlap_max: 0.5, count_max: 3 };

    fn at(corners: [f32; 4], score: f32, class: usize) -> Candidate {
        Candidate::new(corners, score, class, 0).unwrap()
    }

    fn scores(candidates: Vec<Candidate>) -> Vec<f32> {
        suppress(candidates, &KEEP).iter().map(|candidate| candidate.score).collect()
    }

    #[test]
    fn overlap_is_the_shared_part_of_the_whole() {
        assert_eq!(overlap(&[0., 0., 2., 2.], &[1., 0., 3., 2.]), 1.0 / 3.0);
        assert_eq!(overlap(&[0., 0., 1., 1.], &[1., 1., 2., 2.]), 0.0);
        assert_eq!(overlap(&[0., 0., 0., 0.], &[0., 0., 0., 0.]), 0.0);
    }

    #[test]
    fn the_best_of_a_class_hides_what_it_covers() {
        let boxes = vec![
            at([0., 0., 10., 10.], 0.5, 0),
            at([0., 0., 10., 11.], 0.9, 0),
            at([0., 0., 10., 10.], 0.4, 1),
            at([20., 0., 30., 10.], 0.31, 0),
        ];
        assert_eq!(scores(boxes), [0.9, 0.4, 0.31]);
    }

    #[test]
    fn a_box_just_at_the_limit_survives() {
        // 4 × 2 and 2 × 2 inside it: exactly one half.
        assert_eq!(scores(vec![at([0., 0., 4., 2.], 0.9, 0), at([0., 0., 2., 2.], 0.8, 0)]), [0.9, 0.8]);
    }

    #[test]
    fn low_scores_and_what_is_too_many_are_dropped() {
        let row = |at_x: f32, score| at([at_x, 0., at_x + 1., 1.], score, 0);
        assert_eq!(
            scores(vec![row(0., 0.29), row(2., 0.4), row(4., 0.6), row(6., 0.7), row(8., 0.5)]),
            [0.7, 0.6, 0.5]
        );
    }

    #[test]
    fn boxes_without_an_inside_are_none() {
        assert_eq!(Candidate::new([1., 0., 1., 5.], 0.9, 0, 0), None);
        assert_eq!(Candidate::new([0., 0., f32::NAN, 5.], 0.9, 0, 0), None);
        assert_eq!(Candidate::new([0., 0., f32::INFINITY, 5.], 0.9, 0, 0), None);
        assert_eq!(Candidate::new([0., 0., 1., 1.], f32::NAN, 0, 0), None);
    }
}
