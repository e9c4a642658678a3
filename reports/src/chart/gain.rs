//! What FP8 gains over BF16: a dot with its interval for every pair of twins, what the pair could gain at the most, and what is
//! claimed; line by line beside the numbers, and over the width of the model where there are several.

use serde::Serialize;
use stepwatch_record::Run;
use stepwatch_record::cell::BUILTIN;
use stepwatch_record::gain::Gain;

use super::plot::{Plot, Ruler, Tick};
use super::range;
use crate::format;
use crate::view::Links;
use crate::view::cell::CellView;
use crate::view::change::Link;

const WIDTH: i32 = 560;
const HEIGHT: i32 = 260;
/// Width of a pair's own line in the table, pixels.
const LINE: i32 = 260;
/// One shape per line of the chart, so that colour is not the only carrier.
const GLYPHS: [&str; 6] = ["●", "■", "▲", "◆", "○", "□"];

/// The chart as geometry, with its table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GainChart {
    /// The frame; `None` where fewer than two widths are known and there is the table alone.
    pub plot: Option<Plot>,
    /// Width of a pair's line in the table, pixels.
    pub line: i32,
    /// Where on that line a ratio of one lies, and the ratios that are claimed.
    pub marks: (i32, Vec<Tick>),
    /// Where a ratio of one lies.
    pub one: i32,
    /// The ratios that are claimed, as lines with their texts.
    pub claimed: Vec<Tick>,
    /// What stays the same along each line of the chart, with its glyph.
    pub lines: Vec<[String; 2]>,
    /// Whether what could be gained at the most is known of any pair.
    pub bounded: bool,
    /// The pairs, by line and width.
    pub pairs: Vec<GainView>,
}

/// One pair of twins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GainView {
    /// The FP8 cell.
    pub of: Link,
    /// Its twin.
    pub over: Link,
    /// Which line of the chart.
    pub line: usize,
    /// Width as text.
    pub width: String,
    /// The ratio as text.
    pub ratio: String,
    /// Its interval as text.
    pub interval: String,
    /// The share of the twin's step that FP8 can halve, or `–`.
    pub share: String,
    /// What could be gained at the most, or `–`.
    pub bound: String,
    /// Place of the dot; `None` without a width.
    pub at: Option<[i32; 2]>,
    /// Upper and lower end of the interval, pixels from the top.
    pub whisker: [i32; 2],
    /// Where the bound lies.
    pub bound_y: Option<i32>,
    /// On its line in the table: the ratio, its interval, and what could be gained at the most.
    pub across: (i32, [i32; 2], Option<i32>),
    /// Ratio, low, high; width, share and bound where known.
    pub raw: Gain,
}

/// `None` where nothing gains or loses.
pub(crate) fn gain(run: &Run, gains: &[Gain], cells: &[CellView], links: &Links) -> Option<GainChart> {
    let (low, high) = range(gains.iter().flat_map(|gain| [gain.low, gain.high, gain.bound.unwrap_or(gain.high)]))?;
    let claimed: Vec<f64> = claims(run, gains);
    let high = claimed.iter().copied().fold(high, f64::max);
    let y = Ruler::even(low.min(1.0) - 0.05, high.max(1.0), HEIGHT);
    let along = Ruler::even(low.min(1.0) - 0.05, high.max(1.0), LINE);
    let widths =
        range(gains.iter().filter_map(|gain| gain.width).map(|width| width as f64)).filter(|(low, high)| low < high);
    let x = widths.map(|(low, high)| Ruler::log(low / 1.15, high * 1.15, WIDTH));
    let mut lines: Vec<String> = Vec::new();
    let mut pairs: Vec<GainView> = gains
        .iter()
        .map(|gain| {
            let name = line(gain, cells);
            let index = lines.iter().position(|known| *known == name).unwrap_or_else(|| {
                lines.push(name);
                lines.len() - 1
            });
            GainView {
                of: links.link(&gain.of),
                over: links.link(&gain.over),
                line: index,
                width: gain.width.map_or_else(|| "–".into(), |width| width.to_string()),
                ratio: format::ratio(gain.ratio),
                interval: format::ratio_interval(gain.low, gain.high),
                share: gain.product_share.map_or_else(|| "–".into(), format::share),
                bound: gain.bound.map_or_else(|| "–".into(), format::ratio),
                at: x.zip(gain.width).map(|(x, w)| [x.at(w as f64), y.down(gain.ratio)]),
                whisker: [y.down(gain.high), y.down(gain.low)],
                bound_y: gain.bound.map(|bound| y.down(bound)),
                across: (
                    along.at(gain.ratio),
                    [gain.low, gain.high].map(|ratio| along.at(ratio)),
                    gain.bound.map(|bound| along.at(bound)),
                ),
                raw: gain.clone(),
            }
        })
        .collect();
    // Lines of the same width stand beside each other, centred.
    let middle = 4 * (lines.len().min(6) as i32 - 1);
    for pair in &mut pairs {
        pair.at = pair.at.map(|[x, y]| [x + 8 * (pair.line as i32 % 6) - middle, y]);
    }
    pairs.sort_by_key(|pair| (pair.line, pair.raw.width));
    let plain = crate::format::Scale { factor: 1.0, unit: String::new() };
    let width_ticks = |x: Ruler| {
        let mut widths: Vec<u64> = gains.iter().filter_map(|gain| gain.width).collect();
        widths.sort_unstable();
        widths.dedup();
        widths.into_iter().map(|width| Tick { at: x.at(width as f64), text: width.to_string() }).collect()
    };
    Some(GainChart {
        plot: x.map(|x| Plot {
            width: WIDTH,
            height: HEIGHT,
            across: "width of the model (dim, log scale)".into(),
            upward: "tokens/s, FP8 over BF16 (×)".into(),
            x: width_ticks(x),
            y: y.ticks(&plain, true),
        }),
        one: y.down(1.0),
        line: LINE,
        bounded: gains.iter().any(|gain| gain.bound.is_some()),
        marks: (along.at(1.0), claimed.iter().map(|r| Tick { at: along.at(*r), text: claim_text(*r) }).collect()),
        claimed: claimed.into_iter().map(|r| Tick { at: y.down(r), text: claim_text(r) }).collect(),
        lines: lines.into_iter().zip(GLYPHS.iter().cycle()).map(|(name, glyph)| [(*glyph).to_owned(), name]).collect(),
        pairs,
    })
}

fn claim_text(ratio: f64) -> String {
    format!("claimed {ratio} ×")
}

/// What is claimed at the least of one of these pairs.
fn claims(run: &Run, gains: &[Gain]) -> Vec<f64> {
    let of_pair = |claim: &&stepwatch_record::run::Claim| {
        claim.metric == "tokens_per_second"
            && claim.pairs.iter().any(|pair| gains.iter().any(|gain| gain.of == pair.of && gain.over == pair.over))
    };
    let mut ratios: Vec<f64> = run.manifest.claims.iter().filter(of_pair).filter_map(|claim| claim.at_least).collect();
    ratios.retain(|ratio| *ratio != 1.0);
    ratios.sort_by(f64::total_cmp);
    ratios.dedup();
    ratios
}

/// What the cells of a line share: workload, precision, attention and passes.
fn line(gain: &Gain, cells: &[CellView]) -> String {
    let Some(cell) = cells.iter().find(|cell| cell.id == gain.of.0) else { return gain.of.readable().to_owned() };
    let mut parts: Vec<&str> = Vec::new();
    if cell.workload != BUILTIN {
        parts.push(&cell.workload);
    }
    parts.extend(["precision", "attention", "compile"].map(|name| cell.value(name)).into_iter().filter(|v| *v != "–"));
    if cell.value("head") == "fp8" {
        parts.push("head fp8");
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use stepwatch_record::run::{Claim, ClaimPair};

    use crate::{View, example};

    #[test]
    fn one_width_has_no_axis_and_every_pair_its_line() {
        let (mut run, summary, mut conclusion) = example::study();
        let pair =
            ClaimPair { of: conclusion.gains[0].of.clone(), over: conclusion.gains[0].over.clone(), unequal: vec![] };
        run.manifest.claims = vec![Claim {
            text: "1.7 times".into(),
            metric: "tokens_per_second".into(),
            of: [].into(),
            over: [].into(),
            at_least: Some(1.7),
            at_most: None,
            gate: false,
            pairs: vec![pair],
        }];
        let several = View::new(&run, &summary, &conclusion).gain.unwrap();
        assert!(several.plot.is_some());
        conclusion.gains.truncate(1);
        let one = View::new(&run, &summary, &conclusion).gain.unwrap();
        assert_eq!(one.plot, None);
        for pair in several.pairs.iter().chain(&one.pairs) {
            let (at, [low, high], bound) = pair.across;
            assert!(0 < low && low < at && at < high && high < bound.unwrap() && bound.unwrap() < super::LINE);
        }
        // Ratios below one and above it lie on their sides of it, and the claim beyond.
        let (one_at, claimed) = &several.marks;
        assert_eq!(claimed.len(), 1);
        assert!(*one_at < claimed[0].at && claimed[0].at <= super::LINE);
        assert!(several.pairs.iter().all(|pair| (pair.across.0 > *one_at) == (pair.raw.ratio > 1.0)));
    }
}
