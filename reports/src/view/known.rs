//! Waivers and annotations as rows of text.

use serde::Serialize;
use stepwatch_record::waiver::{Annotation, JudgedWaiver};

use super::Links;
use super::change::Link;
use super::mark::Mark;
use crate::clean;

/// A waiver with what it did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WaiverView {
    /// What it did, in one word.
    pub mark: Mark,
    /// The same in one sentence.
    pub sentence: String,
    /// The waiver as data.
    #[serde(skip)]
    pub raw: JudgedWaiver,
}

/// An event that somebody noted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnnotationView {
    /// Its day.
    pub date: String,
    /// What happened.
    pub text: String,
    /// The cells it speaks of; empty if it speaks of all.
    pub cells: Vec<Link>,
}

/// Waivers in the order of their file.
pub(crate) fn waivers(waivers: &[JudgedWaiver]) -> Vec<WaiverView> {
    let view = |waiver: &JudgedWaiver| WaiverView {
        mark: Mark::of_waiver(waiver.state),
        sentence: clean::line(&waiver.sentence),
        raw: waiver.clone(),
    };
    waivers.iter().map(view).collect()
}

/// Annotations, oldest first as they come.
pub(crate) fn annotations(annotations: &[Annotation], links: &Links) -> Vec<AnnotationView> {
    let view = |annotation: &Annotation| AnnotationView {
        date: clean::line(&annotation.date),
        text: clean::line(&annotation.text),
        cells: annotation.cells.iter().map(|cell| links.link(cell)).collect(),
    };
    annotations.iter().map(view).collect()
}
