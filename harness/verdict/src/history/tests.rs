//! Series whose changes are known.

use super::*;
use crate::tests::random::Random;

/// Nights around 1000 with `sd` on the log scale, moved by `shift(night)`.
fn series(seed: u64, nights: usize, sd: f64, shift: impl Fn(usize) -> f64) -> Vec<Option<f64>> {
    let mut random = Random::seeded(seed);
    (0..nights).map(|night| Some(1000.0 * (sd * random.normal() + shift(night)).exp())).collect()
}

#[test]
fn a_step_is_placed_and_measured() {
    let found = history(&series(1, 365, 0.01, |night| if night < 200 { 0.0 } else { -0.03 }));
    assert_eq!(found.changes.len(), 1, "{found:?}");
    let change = &found.changes[0];
    assert!(change.night.abs_diff(200) <= 1 && change.earliest <= 200 && change.latest >= 200, "{change:?}");
    assert_eq!(change.shape, Shape::Step);
    assert!((change.effect + 0.0296).abs() < 0.005, "{change:?}");
}

#[test]
fn a_step_in_the_middle_of_two_months_is_not_taken_for_dependence() {
    let found = (0..200)
        .filter(|seed| {
            let found = history(&series(900 + seed, 60, 0.01, |night| if night < 30 { 0.0 } else { -0.05 }));
            found.changes.len() == 1 && found.changes[0].night.abs_diff(30) <= 1
        })
        .count();
    assert!(found >= 190, "{found} of 200");
}

/// Nights that keep half of the last one's deviation.
fn dependent(seed: u64, nights: usize, shift: impl Fn(usize) -> f64) -> Vec<Option<f64>> {
    let mut random = Random::seeded(seed);
    let mut last = random.normal();
    let mut next = |night: usize| {
        last = 0.5 * last + 0.75_f64.sqrt() * random.normal();
        Some(1000.0 * (0.01 * last + shift(night)).exp())
    };
    (0..nights).map(&mut next).collect()
}

#[test]
fn nights_that_follow_one_another_are_no_change() {
    let flat = |seed: u64| dependent(2000 + seed, 60, |_| 0.0);
    let alarms = (0..400).filter(|seed| !history(&flat(*seed)).changes.is_empty()).count();
    assert!(alarms <= 8, "{alarms} of 400");
}

#[test]
fn a_step_among_nights_that_follow_one_another_is_placed_by_what_is_new_in_each() {
    let placed = |seed: u64| {
        let found = history(&dependent(3000 + seed, 365, |night| if night < 200 { 0.0 } else { -0.03 }));
        found.changes.iter().any(|change| change.night.abs_diff(200) <= 1)
    };
    // Least squares of the nights themselves place 361 of these.
    let hits = (0..400).filter(|seed| placed(*seed)).count();
    assert!(hits >= 365, "{hits} of 400");
}

#[test]
fn a_step_that_is_taken_back_is_two() {
    let found = history(&series(2, 365, 0.005, |night| if (100..130).contains(&night) { -0.03 } else { 0.0 }));
    let nights: Vec<usize> = found.changes.iter().map(|change| change.night).collect();
    assert_eq!(nights.len(), 2, "{found:?}");
    assert!(nights[0].abs_diff(100) <= 1 && nights[1].abs_diff(130) <= 1, "{nights:?}");
    assert!(found.changes[0].effect < 0.0 && found.changes[1].effect > 0.0);
}

#[test]
fn one_bad_night_is_no_change() {
    let found = history(&series(3, 120, 0.005, |night| if night == 60 { -0.2 } else { 0.0 }));
    assert!(found.changes.is_empty(), "{found:?}");
    assert_eq!(found.outliers, [60]);
}

#[test]
fn a_drift_is_told_from_steps() {
    let found = history(&series(4, 365, 0.005, |night| -0.0002 * night as f64));
    assert_eq!(found.changes.iter().map(|change| change.shape).collect::<Vec<_>>(), [Shape::Drift], "{found:?}");
    assert!((found.changes[0].effect + 0.07).abs() < 0.01);
}

#[test]
fn gaps_keep_the_nights_and_widen_the_range() {
    let mut gappy = series(5, 200, 0.002, |night| if night < 100 { 0.0 } else { 0.05 });
    gappy[90..105].fill(None);
    gappy[3] = Some(f64::NAN);
    gappy[4] = Some(-1.0);
    let found = history(&gappy);
    assert_eq!(found.nights, 183);
    assert_eq!(found.changes.len(), 1, "{found:?}");
    let change = &found.changes[0];
    assert_eq!((change.earliest, change.night), (90, 105), "any night of the gap may be the first: {change:?}");
}

#[test]
fn what_cannot_be_searched_has_no_change() {
    for values in [vec![], vec![Some(1.0)], vec![None; 400], vec![Some(5.0); 400], vec![Some(0.0); 50]] {
        let found = history(&values);
        assert!(found.changes.is_empty() && found.outliers.is_empty(), "{found:?}");
    }
}

#[test]
fn what_all_cells_share_is_one_event() {
    let all: Vec<History> = (0..10_u64)
        .map(|cell| {
            let own = move |night: usize| if cell == 4 && night >= 60 { 0.05 } else { 0.0 };
            history(&series(10 + cell, 300, 0.005, |night| own(night) - if night < 150 { 0.0 } else { 0.03 }))
        })
        .collect();
    let shifts = common_shifts(&all);
    assert_eq!(shifts.len(), 1, "{shifts:?}");
    assert!(shifts[0].cells.len() >= 9 && shifts[0].night.abs_diff(150) <= 1, "{shifts:?}");
    assert!(common_shifts(&all[..2]).is_empty(), "two cells are no crowd");
}
